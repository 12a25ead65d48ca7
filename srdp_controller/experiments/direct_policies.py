"""``srdp experiment direct-policies``: the baselines that need training, as graphs that ``srdp eval`` finds by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError
from srdp_controller.offline.baselines import POLICIES, TRAININGS
from srdp_controller.offline.baselines.train import methods, train_policies
from srdp_controller.offline.export.assemble import PARITY_TOLERANCE
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Device, Overrides, Pipeline, RecipePath, shipped_recipe
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.offline.teachers import find_teacher
from srdp_controller.progress import ProgressPrinter
from srdp_controller.simulation.scenario import slug

QUICK = ("collect.episodes=20", "distill.students=[]", "distill.queries=500", "teacher.steps=200", "distill.steps=200")


def direct_policies(
    recipe: RecipePath = None,
    set: Overrides = [],  # noqa: A002, B006
    *,
    policies: tuple[str, ...] = POLICIES,
    run_folder: Path | None = None,
    base: Path | None = None,
    teacher: str = "",
    steps: int | None = None,
    device: Device = "cpu",
    quick: bool = False,
    processes: int = 2,
) -> dict[str, Any]:
    """Train policies on a recipe's data without distilling its teacher, each as RUN/baselines/NAME.onnx.

    They have a student's network sizes, data, batch and number of steps. Each chooses its few knobs by the energy score
    on the calibration trajectories, trained for a quarter of the steps a candidate.
    Consistency distillation needs the teacher, which is trained first where it is not there.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. distill.batch=128; may be given again
        policies: which; those of one training (flow_k1, flow_k2, flow_k4) are made together
        run_folder: RUN, with the dataset and the teacher (default: runs/TASK)
        base: another run folder, whose stages with the same keys are taken over
        teacher: that consistency distillation asks, in whose scales all are trained (as of `srdp pipeline`); none is
            trained
        steps: of each training (default: the recipe's distill.steps)
        device: that trains
        quick: a few steps on a few episodes, in RUN/baselines/quick: does everything work?
        processes: that share the trainings, one thread each

    Raises:
        SrdpError: there is no such policy, or what the pipeline finds wrong with the recipe.
    """
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown:
        raise SrdpError(f"--policies {' '.join(unknown)}: choose from: {' '.join(POLICIES)}")
    path = shipped_recipe(recipe)
    content = load_recipe(path, set)
    run = run_folder or Path("runs") / slug(content.task)
    folder = run / "baselines"
    if quick:
        run = folder = folder / "quick"  # the stages of a run that lasted hours must not give way to these
        content = load_recipe(path, [*QUICK, *set])
    own = find_teacher(teacher, content)
    if own and not own["own_teacher"].whole:
        raise SrdpError(f"--teacher {teacher}: its chunk is longer than its action, which a direct policy's is not")
    pipeline = Pipeline(content, run, report=ProgressPrinter(), **own, device=device)
    if base is not None:
        pipeline.take_over(base.resolve())
    chosen = [name for name, made in TRAININGS.items() if any(policy in policies for policy in made)]
    needs = {methods(content)[name].last for name in chosen}
    pipeline.run("queries" if "queries" in needs else "data")
    # without the dataset, for the processes
    fresh = Pipeline(content, run, report=pipeline.report, **own, device=device)
    jobs = [partial(train_policies, fresh, name, steps or content.distill.steps, folder.resolve()) for name in chosen]
    table = [row for rows in run_parallel(jobs, min(processes, len(jobs))) for row in rows]
    print(f"{'policy':<16} {'energy score':>12} {'steps':>8} {'seconds':>8}  knobs")
    for row in table:
        knobs = ", ".join(f"{name} {value}" for name, value in row["knobs"].items())
        print(f"{row['policy']:<16} {row['energy_score']:>12.4f} {row['steps']:>8} {row['seconds']:>8.0f}  {knobs}")
    print(folder)
    checks = [
        {
            "name": f"{row['policy']}: graph against PyTorch",
            "passed": row["graph_error"] <= PARITY_TOLERANCE,
            "value": row["graph_error"],
            "bound": PARITY_TOLERANCE,
        }
        for row in table
    ]
    result = {"seed": content.seed, "quick": quick, "folder": str(folder), "checks": checks, "table": table}
    return {**result, "figures": []}
