"""What is wrong with a recipe, its spec and its data, all of it, before the first training step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
import yaml

from srdp_controller.certify.conformal import trajectories_needed
from srdp_controller.errors import SrdpError
from srdp_controller.offline.data.checks import CHECKS, EXCLUDED
from srdp_controller.offline.data.imported import imported_record
from srdp_controller.offline.dataset import split_indices
from srdp_controller.offline.distill import build_student
from srdp_controller.offline.expected import expected, told
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.offline.teachers import find_teacher
from srdp_controller.offline.train_teacher import build_teacher
from srdp_controller.progress import ProgressPrinter
from srdp_controller.resources import find_resource
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import Task, find_task, load_object

if TYPE_CHECKING:
    from srdp_controller.offline.pipeline import Pipeline


def check(pipeline: Pipeline) -> list[str]:
    """Every contradiction of the recipe, the spec and the data that can be known before training; empty: none."""
    problems: list[str] = []
    spec: PolicySpec | None = None
    try:
        spec = pipeline.task_spec
    except SrdpError as error:
        problems.append(str(error))
    problems += _sources(pipeline, spec)
    problems += _calibration(pipeline, spec)
    problems += _networks(pipeline, spec)
    return problems


def remarks(pipeline: Pipeline) -> list[str]:
    """What is no error of the pipeline but will be met by the node that runs the bundle."""
    parameters = yaml.safe_load(find_resource("config/controller_parameters.yaml").read_text())
    wanted = float(parameters["abstain.alpha"]["default"])
    smallest = min(pipeline.recipe.calibrate.alphas)
    if not pipeline.recipe.distill.students or smallest <= wanted:
        return []
    return [
        f"the smallest calibrated alpha is {smallest}: start the controller with the parameter abstain.alpha set to "
        f"{smallest} or more (its default {wanted} needs {trajectories_needed(wanted)} calibration trajectories)"
    ]


def data_findings(pipeline: Pipeline) -> tuple[list[str], list[str]]:
    """What is wrong with a dataset that can be trained on all the same, and what is only odd about it."""
    recipe = pipeline.recipe
    if recipe.data.source == "collect" and not (pipeline.folder / "dataset").exists():
        return [], []
    try:
        spec, trajectories = pipeline.task_spec, pipeline.trajectories
    except SrdpError:
        return [], []  # said already
    wrong = [text for found in CHECKS.values() for text in found(trajectories, spec)]
    if recipe.data.source not in ("bag", "lerobot"):
        return wrong, []
    record = imported_record(pipeline.folder)
    odd = [f"{count} episodes are left out: {why}" for why, count in record["left_out"].items()]
    for topic, refused in record["refused_messages"].items():
        share = refused["count"] / refused["of"]
        text = f"{topic}: the controller would refuse {share:.1%} of the messages, the first because {refused['first']}"
        (wrong if share > EXCLUDED else odd).append(text)
    for name, share in record["commands_outside_limits"].items():
        text = f"action {name}: {share:.1%} of the recorded commands are outside its limits and were cut to them"
        (wrong if share > EXCLUDED else odd).append(text)
    return wrong, odd + record["remarks"]


def check_command(
    recipe: Annotated[Path, tyro.conf.Positional],
    set: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = [],  # noqa: A002, B006
    run_folder: Path | None = None,
    teacher: str = "",
) -> dict[str, Any]:
    """Everything that can go wrong with a recipe, its spec and its data, before any training, all at once.

    Exits with status 2 where something is wrong.

    Args:
        recipe: recipe YAML
        set: override, e.g. teacher.steps=5000; may be given again
        run_folder: has the dataset (default: runs/TASK)
        teacher: what is to be distilled, as of `srdp pipeline`
    """
    from srdp_controller.offline.pipeline import Pipeline

    content = load_recipe(recipe, set)
    own = find_teacher(teacher, content)
    pipeline = Pipeline(content, run_folder or Path("runs") / slug(content.task), report=ProgressPrinter(), **own)
    problems = check(pipeline)
    wrong, odd = data_findings(pipeline)
    if problems + wrong:
        raise SrdpError("\n- ".join([f"{recipe}: {len(problems + wrong)} problem(s):", *problems, *wrong]))
    for text in [*odd, *remarks(pipeline)]:
        print(f"note: {text}")
    result: dict[str, Any] = {"recipe": str(recipe), "notes": odd, "seed": content.seed}
    result |= expected(pipeline)
    print(told(result))
    return result


def _sources(pipeline: Pipeline, spec: PolicySpec | None) -> list[str]:
    """The dataset, or what it is to be collected with."""
    recipe = pipeline.recipe
    problems = []
    if recipe.data.source != "collect":
        if spec is not None:
            try:
                trajectories = pipeline.trajectories
            except SrdpError as error:
                return [str(error)]
            if recipe.teacher.critic.enabled and any(trajectory.reward is None for trajectory in trajectories):
                problems.append("teacher.critic: the dataset has no rewards; set teacher.critic.enabled=false")
        elif recipe.data.source == "d4rl" and not Path(recipe.data.dataset).is_file():
            problems.append(f"data.dataset {recipe.data.dataset}: no such file")
        return problems
    try:
        task = find_task(recipe.task)
    except SrdpError as error:
        # without data.spec the spec was looked for in the same task, and has said so already
        return [str(error)] if recipe.data.spec else []
    for name in (recipe.collect.scenario, recipe.collect.hole_scenario):
        try:
            if name:
                task.scenario(name)
        except SrdpError as error:
            problems.append(str(error))
    if type(task).make_world is Task.make_world:
        problems.append(f"task {recipe.task!r} has no world to collect in; set data.source and data.dataset")
    try:
        if recipe.collect.expert:
            load_object(recipe.collect.expert, "collect.expert")
        else:
            task.require_expert(np.random.default_rng(0))
    except SrdpError as error:
        problems.append(str(error))
    return problems


def _calibration(pipeline: Pipeline, spec: PolicySpec | None) -> list[str]:
    recipe = pipeline.recipe
    try:
        collecting = recipe.data.source == "collect"
        if not collecting and spec is None:
            return []
        count = recipe.collect.episodes if collecting else len(pipeline.trajectories)
        parts = split_indices(count, recipe.split.calibration_share, recipe.split.test_share, recipe.seed)
    except SrdpError as error:
        # a dataset that cannot be read has been reported as such
        return [str(error)] if collecting or "trajectories" in pipeline.__dict__ else []
    n = len(parts["calibration"])
    return [
        f"calibrate.alphas: {alpha} needs {trajectories_needed(alpha)} calibration trajectories, "
        f"split.calibration_share={recipe.split.calibration_share} of {count} gives {n}; "
        f"collect more, or leave out alphas below {1.0 / (n + 1):.3g}"
        for alpha in recipe.calibrate.alphas
        if recipe.distill.students and n < trajectories_needed(alpha)
    ]


def _networks(pipeline: Pipeline, spec: PolicySpec | None) -> list[str]:
    """Teacher and a student, built as they would be and thrown away."""
    recipe, own = pipeline.recipe, pipeline.own_teacher
    problems = []
    steps = own.diffusion_steps if own is not None else recipe.teacher.diffusion_steps
    for count, often in Counter(recipe.distill.students).items():
        if not 1 <= count <= steps or often > 1:
            problems.append(f"distill.students: {count} must stand there once and be 1 to {steps}, the teacher's steps")
    known = ["teacher", *(f"student_k{count}" for count in recipe.distill.students)]
    for name in recipe.corrector.policies:
        if name not in known:
            problems.append(f"corrector.policies: {name!r} is none of this recipe's policies: {', '.join(known)}")
    if own is not None and recipe.teacher.critic.enabled:
        problems.append("teacher.critic guides a teacher that is trained here, not one that was brought")
    if own is not None and recipe.inpainting.steps and not own.whole:
        problems.append("inpainting.steps: this teacher's chunk is longer than its action; set it to 0")
    if spec is None or problems:
        return problems
    if own is not None:
        for what, found, expected in (
            ("observations", own.obs_dim, spec.obs_dim),
            ("chunks", len(range(*own.given.indices(own.action_dim))), spec.horizon * spec.act_dim),
        ):
            if found != expected:
                problems.append(f"the teacher's {what} have {found} values, the spec's {expected}")
    teacher = own if own is not None else build_teacher(recipe.teacher, spec)
    try:
        for count in recipe.distill.students[:1]:
            build_student(teacher, count, recipe.distill)
    except SrdpError as error:
        problems.append(str(error))
    return problems
