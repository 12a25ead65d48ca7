"""Multi-seed sweeps over recipe settings: one run folder each, shared stages taken over by hard link."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from srdp_controller.errors import SrdpError
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Overrides, Pipeline, RecipePath, shipped_recipe
from srdp_controller.offline.recipe import Recipe, load_recipe
from srdp_controller.progress import ProgressPrinter


@dataclass(frozen=True)
class Variant:
    """One point of a sweep: its name, its overrides, its recipe."""

    name: str
    overrides: tuple[str, ...]
    recipe: Recipe


def variants(recipe: Path, base: Sequence[str], vary: Sequence[str], seeds: Sequence[int]) -> list[Variant]:
    """Every combination of ``vary`` (``section.key=v1,v2``; values may be YAML lists in []) and seeds.

    Raises:
        SrdpError: an override is malformed or its field is unknown.
    """
    axes = [[f"seed={seed}" for seed in seeds]]
    for entry in vary:
        key, separator, values = entry.partition("=")
        try:
            listed = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            listed = []
        if not separator or not listed:
            raise SrdpError(f"--vary {entry}: expected section.key=value1,value2")
        axes.append([f"{key}={value if isinstance(value, str) else json.dumps(value)}" for value in listed])
    found = []
    for overrides in itertools.product(*axes):
        name = "__".join(override.replace("=", "-").replace("/", "_") for override in overrides)
        found.append(Variant(name, overrides, load_recipe(recipe, [*base, *overrides])))
    return found


@dataclass(frozen=True)
class _Task:
    variant: Variant
    folder: Path
    base: Path | None
    last: str

    def __call__(self) -> dict[str, Any]:
        recipe = self.variant.recipe
        alone = recipe.model_copy(
            update={
                "distill": recipe.distill.model_copy(update={"processes": 1}),
                "collect": recipe.collect.model_copy(update={"processes": 1}),
            }
        )
        pipeline = Pipeline(alone, self.folder)
        if self.base is not None:
            pipeline.take_over(self.base)
        pipeline.run(self.last)
        return {
            "name": self.variant.name,
            "overrides": list(self.variant.overrides),
            "seed": recipe.seed,
            "run_folder": str(self.folder),
            "metrics": pipeline.last_metrics(),
            "seconds": {name: stage["facts"]["seconds"] for name, stage in pipeline.record().items()},
        }


def sweep_command(
    recipe: RecipePath = None,
    set: Overrides = [],  # noqa: A002, B006
    vary: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=V1,V2")] = [],  # noqa: B006
    seeds: str = "0",
    last: Literal["collect", "data", "teacher", "queries", "distill", "calibrate", "export"] = "export",
    base: Path | None = None,
    run_folder: Path = Path("runs/sweep"),
    processes: int = 2,
) -> dict[str, Any]:
    """Run the pipeline over settings and seeds, in parallel; run it again to go on.

    Example: srdp sweep --vary distill.latent_weight=0,0.1 --seeds 0,1,2 --base runs/pushing

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. distill.steps=5000; may be given again
        vary: values to try; may be given again
        seeds: recipe seeds, with commas
        last: stage after which to stop
        base: run folder whose unchanged stages are taken over
        run_folder: has one run folder for each combination
        processes: how many work beside each other
    """
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise SrdpError(f"--seeds {seeds}: expected whole numbers with commas between, e.g. 0,1,2") from None
    found = variants(shipped_recipe(recipe), set, vary, numbers)
    base = base.resolve() if base else None
    tasks = [_Task(variant, run_folder.resolve() / variant.name, base, last) for variant in found]
    report, rows = ProgressPrinter(), []
    for row in run_parallel(tasks, processes=processes):
        rows.append(row)
        report("sweep", len(rows), len(tasks), row["name"])
    order = {variant.name: index for index, variant in enumerate(found)}
    rows.sort(key=lambda row: order[row["name"]])
    for row in rows:
        print(f"{row['name']:<48} { {name: round(metric['loss'], 5) for name, metric in row['metrics'].items()} }")
    return {"seed": None, "rows": rows}
