"""``srdp experiment direct-policies``: few-step diffusion policies without a teacher, section 8's ablation (iii)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srdp_controller.offline.pipeline import Pipeline, RecipePath, shipped_recipe
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.progress import ProgressPrinter


def direct_policies(
    recipe: RecipePath = None,
    *,
    students: tuple[int, ...] = (1, 2, 4, 8),
    base: Path = Path("runs/pushing"),
    run_folder: Path = Path("runs/direct"),
) -> dict[str, Any]:
    """Train K-step diffusion policies on the data alone, and export each as a bundle for ``eval fidelity --direct``.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        students: numbers of steps, a policy each
        base: run folder whose dataset and split are taken over
        run_folder: each policy's bundle is run_folder/kK/bundle
    """
    bundles = []
    for steps in students:
        content = load_recipe(shipped_recipe(recipe), [f"teacher.diffusion_steps={steps}", "distill.students=[]"])
        pipeline = Pipeline(content, run_folder / f"k{steps}", report=ProgressPrinter())
        pipeline.take_over(base)
        pipeline.run("export")
        bundles.append(str(run_folder / f"k{steps}" / "bundle"))
        print(bundles[-1])
    return {"seed": content.seed, "bundles": bundles}
