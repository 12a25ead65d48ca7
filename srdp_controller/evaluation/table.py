"""``srdp eval table``: every policy of a bundle, and its baselines, in every scenario of its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tyro

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import RESULTS, closed_loop
from srdp_controller.files import write_json
from srdp_controller.provenance import describe_run
from srdp_controller.resources import find_resource
from srdp_controller.simulation.scenario import slug
from srdp_controller.tasks.task import Task, find_task


def scenarios_of(task: Task) -> list[str]:
    """The task's scenarios, nominal first, without those whose sensors fail."""
    try:
        names = [path.stem for path in find_resource(f"sim/scenarios/{slug(task.name)}").glob("*.yaml")]
    except SrdpError:
        names = []
    sound = [name for name in sorted(names) if name != "nominal" and not task.scenario(name).faults]
    return ["nominal", *sound]


def table(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = (),
    scenarios: tuple[str, ...] = (),
    episodes: int = 200,
    seed: int = 0,
    processes: int = 2,
    results: Path = RESULTS,
    baselines: Path | None = None,
) -> dict[str, Any]:
    """Closed loop of every policy in every scenario, a row each, into RESULTS/TASK/closed_loop.json.

    Goes on where it was interrupted: rows of the same commit, bundle, seed and number of episodes are not run again,
    and rows that are not asked for stay; each row names its commit.

    Args:
        bundle: folder, e.g. models/pushing
        policies: the bundle's and plain DDIM with as many steps as each student, where not given; also those of
            `srdp experiment direct-policies`
        scenarios: all of the task's without sensor faults, where not given
        episodes: of each row
        seed: of the episodes
        processes: that share the episodes
        results: folder
        baselines: folder of what direct-policies trained (default: runs/TASK/baselines)
    """
    loaded = load_bundle(bundle)
    task = find_task(loaded.content.task)
    students = [name for name in loaded.content.policies if name != "teacher"]
    chosen = policies or ("teacher", *students, *(f"ddim_k{loaded.policy(name).steps}" for name in students))
    path = results / slug(task.name) / "closed_loop.json"
    origin = describe_run(f"srdp eval table {bundle} --episodes {episodes} --seed {seed}", seed)
    origin |= {"task": task.name, "bundle": loaded.identity, "episodes": episodes}
    same = {key: origin[key] for key in ("commit", "bundle", "seed", "episodes")}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {(row["policy"], row["scenario"]): row for row in old}
    for scenario in scenarios or scenarios_of(task):
        for policy in chosen:
            if rows.get((policy, scenario), {}).items() >= same.items():
                continue
            row = closed_loop(
                bundle,
                policy=policy,
                scenario=scenario,
                episodes=episodes,
                seed=seed,
                processes=processes,
                results=results,
                baselines=baselines,
            )
            rows[policy, scenario] = row | same
            write_json(path, {**origin, "rows": list(rows.values())})
    print(path)
    return {**origin, "rows": list(rows.values())}
