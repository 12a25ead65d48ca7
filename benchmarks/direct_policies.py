"""Few-step diffusion policies trained on the data, without a teacher: section 8's ablation (iii) as bundles.

`python benchmarks/direct_policies.py --base runs/pushing` trains one for each K, on the base run's dataset
and split and with the teacher's own recipe but for its number of steps, and exports each as a bundle that
`srdp eval fidelity --direct FOLDER` compares with the students.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from srdp_controller.offline.pipeline import Run
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.progress import ProgressPrinter


def train_direct(base: Path, folder: Path, recipe_path: Path, steps: int) -> Path:
    """Train and export the K = ``steps`` policy; returns its bundle."""
    recipe = load_recipe(recipe_path, [f"teacher.diffusion_steps={steps}", "distill.students=[]"])
    run = Run(recipe, folder / f"k{steps}", ProgressPrinter())
    for name in ("dataset", "split.json", "split.key"):
        if not (run.folder / name).exists():
            os.symlink((base / name).resolve(), run.folder / name)
    run.train()
    run.calibrate()
    run.export(run.folder / "bundle")
    return run.folder / "bundle"


def main() -> None:
    """Train them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("runs/pushing"))
    parser.add_argument("--recipe", type=Path, default=Path("export/pushing.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/direct"))
    parser.add_argument("--students", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    for steps in arguments.students:
        print(train_direct(arguments.base, arguments.folder, arguments.recipe, steps))


if __name__ == "__main__":
    main()
