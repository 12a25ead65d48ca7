"""Multi-seed sweeps over recipe settings: one run folder each, shared stages taken over by hard link."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError
from srdp_controller.offline.collect import DATASET
from srdp_controller.offline.parallel import Backend, run_parallel
from srdp_controller.offline.pipeline import Run, run_pipeline
from srdp_controller.offline.recipe import Recipe, load_recipe
from srdp_controller.progress import Report


@dataclass(frozen=True)
class Variant:
    """One point of a sweep: its name, its overrides, its recipe."""

    name: str
    overrides: tuple[str, ...]
    recipe: Recipe


def variants(recipe: Path, base: list[str], vary: list[str], seeds: list[int]) -> list[Variant]:
    """Every combination of ``vary`` (``section.key=v1,v2``; values may be YAML lists in []) and seeds.

    Raises:
        SrdpError: an override is malformed or its field is unknown.
    """
    axes = [[f"seed={seed}" for seed in seeds]]
    for entry in vary:
        key, separator, values = entry.partition("=")
        if not separator or not values:
            raise SrdpError(f"--vary {entry}: expected section.key=value1,value2")
        axes.append([f"{key}={value}" for value in _split_values(values)])
    found = []
    for overrides in itertools.product(*axes):
        name = "__".join(override.replace("=", "-").replace("/", "_") for override in overrides)
        found.append(Variant(name, overrides, load_recipe(recipe, [*base, *overrides])))
    return found


def _split_values(values: str) -> list[str]:
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def take_over(run: Run, source: Path) -> list[str]:
    """Hard-link every completed stage of ``source`` whose inputs are this run's too; returns their names."""
    record_path = source / "stages.json"
    if not record_path.exists():
        return []
    theirs: dict[str, Any] = json.loads(record_path.read_text())
    keys = {"collect": run.dataset_key, "teacher": run.teacher_key, "queries": run.query_key}
    files = {
        "collect": [
            *(path.relative_to(source) for path in (source / "dataset" / DATASET).rglob("*") if path.is_file())
        ],
        "teacher": [Path("teacher.pt"), Path("teacher.jsonl"), Path("teacher.key")],
        "queries": [Path("queries.pt"), Path("queries.key")],
    }
    mine, taken = run.record(), []
    for name, key in keys.items():
        if name in mine or theirs.get(name, {}).get("key") != key:
            continue
        for file in files[name]:
            target = run.folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() and (source / file).exists():
                os.link(source / file, target)
        mine[name] = theirs[name]
        taken.append(name)
    (run.folder / "stages.json").write_text(json.dumps(mine, indent=1))
    return taken


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
        run = Run(alone, self.folder, lambda *_: None)
        if self.base is not None:
            take_over(run, self.base)
        run_pipeline(alone, self.folder, self.folder / "bundle", lambda *_: None, self.last, threads=1)
        return {
            "name": self.variant.name,
            "overrides": list(self.variant.overrides),
            "seed": recipe.seed,
            "run_folder": str(self.folder),
            "metrics": run.last_metrics(),
            "seconds": {name: stage["facts"]["seconds"] for name, stage in run.record().items()},
        }


def sweep(
    found: list[Variant],
    folder: Path,
    *,
    last: str,
    base: Path | None,
    processes: int,
    backend: Backend,
    cluster: str | None,
    report: Report,
) -> list[dict[str, Any]]:
    """Run the pipeline of every variant up to stage ``last``; finished stages are skipped when run again."""
    tasks = [_Task(variant, folder / variant.name, base, last) for variant in found]
    rows = []
    for row in run_parallel(tasks, processes=processes, backend=backend, cluster=cluster):
        rows.append(row)
        report("sweep", len(rows), len(tasks), row["name"])
    order = {variant.name: index for index, variant in enumerate(found)}
    return sorted(rows, key=lambda row: order[row["name"]])
