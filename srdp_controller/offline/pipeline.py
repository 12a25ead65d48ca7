"""The offline pipeline: dataset -> teacher -> students -> calibration -> bundle, stage by stage (``STAGES``).

    Pipeline(load_recipe(Path("export/pushing.yaml")), Path("runs/pushing"), Path("models/pushing"), print).run()

A stage that was completed for the same key is skipped; one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from srdp_controller.engines.bundle import MANIFEST, sha256
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file, write_json
from srdp_controller.offline.calibrate import calibrate_students
from srdp_controller.offline.collect import collect, dataset_name
from srdp_controller.offline.critic import TwinCritic, train_critic
from srdp_controller.offline.data.imported import imported_trajectories
from srdp_controller.offline.dataset import (
    Split,
    Trajectory,
    dataset_digest,
    full_observations,
    load_d4rl,
    load_trajectories,
    normalised_spec,
    samples,
    split_indices,
)
from srdp_controller.offline.distill import build_student, distill
from srdp_controller.offline.export.assemble import assemble_bundle
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.queries import TeacherQueries, load_queries, query_teacher, save_queries
from srdp_controller.offline.recipe import Recipe, base_spec, content_hash, extended_spec, load_recipe
from srdp_controller.offline.teachers import find_teacher
from srdp_controller.offline.train_corrector import plan_chunks, train_corrector
from srdp_controller.offline.train_teacher import CommandInputs, build_teacher, train_teacher
from srdp_controller.offline.training import load_weights
from srdp_controller.policy.corrector import Corrector
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress, ProgressPrinter, Report
from srdp_controller.provenance import versions
from srdp_controller.resources import find_resource
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

PARITY_STATES = 256


def silent(stage: str, done: int, total: int, text: str) -> None:
    """A ``Report`` that says nothing."""


@dataclass
class Pipeline:
    """A recipe, the run folder in which its stages leave what they made, and the bundle's folder.

    Attributes:
        target: where the bundle goes; by default ``bundle`` in the run folder.
        own_teacher: takes the place of the recipe's teacher; it was trained elsewhere.
        own_spec: what it observes and commands, in the scales that it was trained in; the task's (and the data's
            scales, where the recipe asks for them) where not given.
        device: on which networks are trained and asked, as torch calls it; it is part of no key.

    Raises:
        SrdpError: there is no such device.
    """

    recipe: Recipe
    folder: Path
    target: Path | None = None
    report: Report = silent
    own_teacher: DiffusionTeacher | None = None
    own_spec: PolicySpec | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.device != "cpu" and not torch.cuda.is_available():
            raise SrdpError(
                f"--device {self.device}: PyTorch finds no such GPU; leave --device out to train on the CPU"
            )
        self.folder = self.folder.resolve()  # Minari joins a relative path to itself
        if self.own_teacher is not None:
            self.own_teacher = self.own_teacher.eval().requires_grad_(False)

    # --- running ---------------------------------------------------------------------------------

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages of this recipe, in order."""
        without = {"collect": self.recipe.data.source != "collect", "correct": not self.recipe.corrector.policies}
        return {stage.name: stage for stage in STAGES if not without.get(stage.name)}

    def run(self, last: str = "export") -> Pipeline:
        """Complete every stage up to ``last``.

        Raises:
            SrdpError: what ``check`` found, all of it, before anything is trained; or what a stage found.
        """
        from srdp_controller.offline.check import check, remarks

        if last not in self.stages:
            raise SrdpError(
                f"this recipe has no stage {last!r} (data.source is {self.recipe.data.source!r}); "
                f"choose one of: {', '.join(self.stages)}"
            )
        problems = check(self)
        if problems:
            raise SrdpError("\n- ".join([f"{len(problems)} problem(s), before any training:", *problems]))
        for remark in remarks(self):
            self.report("check", 1, 1, remark)
        write_file(self.folder / "recipe.json", self.recipe.model_dump_json(indent=1).encode())
        for stage in self.stages.values():
            self._complete(stage)
            if stage.name == last:
                break
        return self

    def _complete(self, stage: Stage) -> None:
        key, record = self.key(stage.name), self.record()
        done = record.get(stage.name)
        left = [*(self.folder / name for name in (done or {}).get("files", ())), *stage.outside(self)]
        if done and done["key"] == key and all(path.exists() for path in left):
            self.report(stage.name, 1, 1, "unchanged, skipped")
            return
        begun = self._json("begun.json")
        if begun.get(stage.name) != key:  # what is there was made from something else
            if record.pop(stage.name, None):
                write_json(self.folder / "stages.json", record)
            for path in self._matching(stage):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            write_json(self.folder / "begun.json", {**begun, stage.name: key})
        started = time.monotonic()
        with self.on_device() if stage.trains else contextlib.nullcontext():
            facts = {**(stage.work(self) or {}), "seconds": round(time.monotonic() - started, 1)}
        if stage.trains and self.device != "cpu":
            facts["device"] = torch.cuda.get_device_name(self.device)
        self._enter(stage.name, {"key": key, "files": self._files(stage), "facts": facts})
        self.report(stage.name, 1, 1, f"done in {facts['seconds']:.0f} s")

    def key(self, name: str) -> str:
        """Hash of all that a stage's result depends on."""
        stage = self.stages[name]
        sections = [attrgetter(path)(self.recipe) for path in stage.sections]
        return content_hash(
            name, sections, [self.key(parent) for parent in stage.parents if parent in self.stages], stage.content(self)
        )

    def completed(self, name: str) -> str:
        """The key for which a stage was completed in the run folder; empty where it was not."""
        return str(self.record().get(name, {}).get("key", ""))

    def record(self) -> dict[str, Any]:
        """What each completed stage was made from, the files that it left and what it found out."""
        return self._json("stages.json")

    def take_over(self, source: Path) -> list[str]:
        """Hard-link what was completed for the same keys in another run folder; returns the stages' names."""
        theirs, taken = Pipeline(self.recipe, source).record(), []
        for stage in self.stages.values():
            if self.completed(stage.name):
                continue
            done = theirs.get(stage.name)
            if done is None or done["key"] != self.key(stage.name):
                break
            for name in done["files"]:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                if not (self.folder / name).exists():
                    os.link(source / name, self.folder / name)
            self._enter(stage.name, done)
            write_json(self.folder / "begun.json", {**self._json("begun.json"), stage.name: done["key"]})
            taken.append(stage.name)
        return taken

    def on_device(self) -> AbstractContextManager[Any]:
        """In it new tensors, and what is loaded, lie on the pipeline's device."""
        return contextlib.nullcontext() if self.device == "cpu" else torch.device(self.device)

    def progress(self, name: str) -> Progress:
        """Progress callback of a stage."""
        return lambda done, total, text: self.report(name, done, total, text)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return content

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        write_json(self.folder / "stages.json", {**self.record(), name: entry})

    def _matching(self, stage: Stage) -> list[Path]:
        return [Path(found) for pattern in stage.files for found in glob.glob(str(self.folder / pattern))]

    def _files(self, stage: Stage) -> list[str]:
        found = [path for match in self._matching(stage) for path in ([match] if match.is_file() else match.rglob("*"))]
        return sorted(str(path.relative_to(self.folder)) for path in found if path.is_file())

    # --- what the stages leave -------------------------------------------------------------------

    @cached_property
    def base_spec(self) -> PolicySpec:
        """The spec of ``data.spec`` or of the task.

        Raises:
            SrdpError: no such task, or the spec is wrong.
        """
        return base_spec(self.recipe)

    @cached_property
    def task_spec(self) -> PolicySpec:
        """``own_spec``, or ``extended_spec`` of the recipe.

        Raises:
            SrdpError: as of ``extended_spec``.
        """
        return self.own_spec if self.own_spec is not None else extended_spec(self.recipe)

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """The dataset.

        Raises:
            DatasetError: it is missing, or episodes are of wrong shape or hold NaN.
        """
        data = self.recipe.data
        if data.source == "d4rl":
            return load_d4rl(Path(data.dataset), self.task_spec)
        if data.source in ("bag", "lerobot"):
            return imported_trajectories(self.folder, self.recipe, self.task_spec, self.progress("import"))
        if data.source == "minari":
            return load_trajectories(None, data.dataset, self.task_spec, data.download, data.keys)
        return load_trajectories(self.folder / "dataset", dataset_name(self.recipe.task), self.task_spec)

    @cached_property
    def spec(self) -> PolicySpec:
        """What the policies observe and command, in the scales that they are trained in."""
        path = self.folder / "spec.json"
        if not path.exists():
            raise SrdpError(f"{path}: not there; run the pipeline's stage 'data' first")
        return PolicySpec.model_validate_json(path.read_bytes())

    def split(self) -> Split:
        """The dataset's trajectories: training, calibration, test; the same at every call."""
        parts = self._split_indices()
        return Split(**{name: [self.trajectories[index] for index in parts[name]] for name in parts})

    def _split_indices(self) -> dict[str, list[int]]:
        shares = self.recipe.split
        return split_indices(len(self.trajectories), shares.calibration_share, shares.test_share, self.recipe.seed)

    def teacher(self) -> DiffusionTeacher:
        """The trained teacher, frozen, as its weights are stored: what is distilled is what is shipped."""
        if self.own_teacher is not None:
            return self.own_teacher
        teacher = load_weights(build_teacher(self.recipe.teacher, self.spec), self.folder / "teacher.pt")
        if self.recipe.teacher.storage == "float16":
            for weights in teacher.parameters():
                weights.copy_(weights.half())
        return teacher

    def queries(self) -> TeacherQueries:
        """The teacher's cached answers."""
        return load_queries(self.folder / "queries.pt")

    def students(self) -> dict[str, Student]:
        """All trained students by name, frozen."""
        teacher, found = self.teacher(), {}
        for steps in self.recipe.distill.students:
            student = build_student(teacher, steps, self.recipe.distill)
            found[f"student_k{steps}"] = load_weights(student, self.folder / f"student_k{steps}.pt")
        return found

    def correctors(self) -> dict[str, Corrector]:
        """The trained correction heads by the name of their policy, frozen."""
        recipe, spec = self.recipe.corrector, self.spec
        return {
            name: load_weights(
                Corrector(spec.obs_dim, spec.act_dim, recipe.hidden), self.folder / f"corrector_{name}.pt"
            )
            for name in recipe.policies
        }

    def last_metrics(self) -> dict[str, Any]:
        """Last line of each network's metrics (``NAME.jsonl`` holds all of them)."""
        names = ["teacher", *(f"student_k{steps}" for steps in self.recipe.distill.students)]
        logs = {name: self.folder / f"{name}.jsonl" for name in names}
        return {name: json.loads(log.read_text().splitlines()[-1]) for name, log in logs.items() if log.exists()}


# --- the stages ----------------------------------------------------------------------------------


def _collect(pipeline: Pipeline) -> dict[str, Any]:
    folder, progress = pipeline.folder / "dataset", pipeline.progress("collect")
    return collect(pipeline.recipe, pipeline.base_spec, folder, progress)


def _settle_data(pipeline: Pipeline) -> dict[str, Any]:
    """The recorded split (whole trajectories, with their hashes), and the spec in the scales of training."""
    trajectories, parts = pipeline.trajectories, pipeline._split_indices()
    spec = pipeline.task_spec
    if pipeline.recipe.data.normalise == "data" and pipeline.own_spec is None:
        spec = normalised_spec(spec, pipeline.split().train)
    split = {
        name: [{"episode": index, "sha256": trajectories[index].digest()} for index in indices]
        for name, indices in parts.items()
    }
    write_json(pipeline.folder / "split.json", split)
    write_file(pipeline.folder / "spec.json", spec.model_dump_json(indent=1).encode())
    pipeline.__dict__.pop("spec", None)
    return {"sha256": dataset_digest(trajectories), **{name: len(indices) for name, indices in parts.items()}}


def _train(pipeline: Pipeline) -> None:
    """The teacher; with a critic first the behaviour policy, then Q, then the guided teacher."""
    if pipeline.own_teacher is not None:
        return
    recipe, spec, seed, folder = pipeline.recipe.teacher, pipeline.spec, pipeline.recipe.seed, pipeline.folder
    torch.set_num_threads(recipe.threads)
    split, inputs = pipeline.split(), _inputs(pipeline)
    data, held_out = samples(split.train, spec, recipe.critic.discount), samples(split.test, spec)

    def fitted(name: str, critic: TwinCritic | None = None, start: SrdpTeacher | None = None) -> SrdpTeacher:
        progress = pipeline.progress(name)
        return train_teacher(
            recipe,
            spec,
            data,
            seed,
            folder,
            progress,
            inputs=inputs,
            name=name,
            critic=critic,
            start=start,
            held_out=held_out,
        )

    if not recipe.critic.enabled:
        fitted("teacher")
        return
    behaviour = fitted("behaviour")
    critic = train_critic(recipe.critic, behaviour, data, seed, folder, pipeline.progress("critic"))
    fitted("teacher", critic, behaviour)


def _inputs(pipeline: Pipeline) -> CommandInputs:
    return CommandInputs(pipeline.spec, pipeline.recipe.observation)


def _ask_teacher(pipeline: Pipeline) -> None:
    recipe, spec, settings = pipeline.recipe, pipeline.spec, pipeline.recipe.teacher.critic
    critic = None
    if settings.enabled and settings.best_of > 1:
        critic = TwinCritic(spec.obs_dim, spec.horizon * spec.act_dim, settings.hidden)
        critic = load_weights(critic, pipeline.folder / "critic.pt")
    queries = query_teacher(
        pipeline.teacher(),
        samples(pipeline.split().train, spec),
        recipe.queries,
        recipe.seed,
        pipeline.progress("queries"),
        _inputs(pipeline),
        critic,
        settings.best_of,
    )
    save_queries(queries, pipeline.folder / "queries.pt")


def _distill(pipeline: Pipeline) -> None:
    """One student per K, several at a time, the longest first, so that the processes end together."""
    own, spec, folder = pipeline.own_teacher, pipeline.own_spec, pipeline.folder
    # without the dataset
    fresh = Pipeline(
        pipeline.recipe, folder, report=pipeline.report, own_teacher=own, own_spec=spec, device=pipeline.device
    )
    students = sorted(pipeline.recipe.distill.students, reverse=True)
    list(run_parallel([partial(_distill_one, fresh, steps) for steps in students], pipeline.recipe.distill.processes))


def _distill_one(pipeline: Pipeline, steps: int) -> None:
    recipe, progress = pipeline.recipe, pipeline.progress(f"student_k{steps}")
    with pipeline.on_device():
        distill(pipeline.teacher(), steps, pipeline.queries(), recipe.distill, recipe.seed, pipeline.folder, progress)


def _correct(pipeline: Pipeline) -> None:
    """One correction head for each policy that the recipe names, from chunks of that policy."""
    recipe, spec, seed = pipeline.recipe, pipeline.spec, pipeline.recipe.seed
    trajectories = pipeline.split().train
    data, lengths = samples(trajectories, spec), [len(trajectory.action) for trajectory in trajectories]
    students = pipeline.students()
    for policy in recipe.corrector.policies:
        name = f"corrector_{policy}"
        progress = pipeline.progress(name)
        base = pipeline.teacher() if policy == "teacher" else students[policy]
        late = plan_chunks(recipe.corrector, base, data, lengths, spec, seed, progress, _inputs(pipeline))
        train_corrector(recipe.corrector, data, late, spec, seed, pipeline.folder, name, progress)


def _calibrate(pipeline: Pipeline) -> dict[str, Any]:
    """Split conformal thresholds of each student's latent distance."""
    alphas = pipeline.recipe.calibrate.alphas
    trajectories = pipeline.split().calibration
    calibration = calibrate_students(pipeline.teacher(), pipeline.students(), trajectories, pipeline.spec, alphas)
    write_file(pipeline.folder / "calibration.json", calibration.model_dump_json(indent=1).encode())
    return {name: entry.thresholds for name, entry in calibration.policies.items()}


def _export(pipeline: Pipeline) -> dict[str, Any]:
    """The bundle, parity-checked, put in place of the target when it is whole."""
    recipe, folder, stages = pipeline.recipe, pipeline.folder, pipeline.record()
    provenance = {
        "dataset": stages["data"]["facts"]["sha256"],
        "split": sha256((folder / "split.json").read_bytes()),
        "recipe": content_hash(recipe),
        "seed": recipe.seed,
        "versions": versions(),
        "metrics": pipeline.last_metrics(),
        "stages": {name: entry["facts"] for name, entry in stages.items()},
    }
    held_out = np.concatenate([full_observations(one, pipeline.spec)[:-1] for one in pipeline.split().test])
    bundle, parity = assemble_bundle(
        _target(pipeline),
        recipe.task,
        pipeline.spec,
        pipeline.teacher(),
        pipeline.students(),
        (folder / "calibration.json").read_bytes(),
        provenance,
        held_out[np.random.default_rng(0).integers(len(held_out), size=PARITY_STATES)],
        pipeline.progress("export"),
        pipeline.correctors(),
        recipe.inpainting,
    )
    return {"parity_max_error": parity, "bundle_sha256": bundle.identity}


def _target(pipeline: Pipeline) -> Path:
    return pipeline.target or pipeline.folder / "bundle"


def _teacher_content(pipeline: Pipeline) -> list[Any]:
    """Weights and forward process of a teacher that was trained elsewhere."""
    teacher = pipeline.own_teacher
    if teacher is None:
        return []
    weights = hashlib.sha256()
    for name, value in teacher.state_dict().items():
        weights.update(name.encode() + value.cpu().numpy().tobytes())
    process, given = teacher.process, teacher.given
    how = [process.clip, process.keeps_noise, given.start, given.stop]
    return [weights.hexdigest(), teacher.alpha_bar.tolist(), process.prediction, *how]


def _scenarios(pipeline: Pipeline) -> list[Any]:
    """What the spec and the scenarios' files say, whatever they are called."""
    recipe = pipeline.recipe
    names = [name for name in (recipe.collect.scenario, recipe.collect.hole_scenario) if name]
    return [pipeline.base_spec, *(find_task(recipe.task).scenario(name) for name in names)]


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        sections: of the recipe, which ``work`` reads; with the parents' keys and ``content`` they make the key.
        files: patterns in the run folder of what ``work`` leaves, also half done; they go where the key has changed.
        content: what else the result depends on.
        outside: files outside the run folder without which the stage is not done.
        trains: whether it runs on the pipeline's device; the others run on the processor.
    """

    name: str
    work: Callable[[Pipeline], dict[str, Any] | None]
    sections: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    content: Callable[[Pipeline], Any] = lambda pipeline: None
    outside: Callable[[Pipeline], list[Path]] = lambda pipeline: []
    trains: bool = False


# "data" has no parent: only the dataset's content counts, wherever it came from
STAGES = (
    Stage("collect", _collect, ("task", "collect", "seed"), files=("dataset",), content=_scenarios),
    Stage(
        "data",
        _settle_data,
        ("data.normalise", "split", "observation", "seed"),
        files=("split.json", "spec.json"),
        content=lambda pipeline: [dataset_digest(pipeline.trajectories), pipeline.task_spec],
    ),
    Stage(
        "teacher",
        _train,
        ("teacher", "seed"),
        ("data",),
        files=("teacher.*", "behaviour.*", "critic.*"),
        content=_teacher_content,
        trains=True,
    ),
    Stage("queries", _ask_teacher, ("queries", "seed"), ("teacher",), files=("queries.pt",), trains=True),
    Stage("distill", _distill, ("distill", "seed"), ("queries",), files=("student_k*",), trains=True),
    Stage("correct", _correct, ("corrector", "observation", "seed"), ("distill",), files=("corrector_*",), trains=True),
    Stage("calibrate", _calibrate, ("calibrate",), ("distill",), files=("calibration.json",)),
    Stage(
        "export",
        _export,
        ("task", "inpainting"),
        ("calibrate", "correct"),
        content=lambda pipeline: [versions(), str(_target(pipeline).resolve())],  # a newer exporter: another graph
        outside=lambda pipeline: [_target(pipeline) / MANIFEST],
    ),
)


# --- commands ------------------------------------------------------------------------------------

# a few steps on a few episodes: does everything work?
QUICK = (
    "collect.episodes=8",
    "collect.processes=1",  # to start others takes longer
    "split.calibration_share=0.3",
    "teacher.steps=10",
    "teacher.batch=16",
    "distill.students=[1]",
    "distill.queries=200",
    "distill.steps=50",
    "distill.processes=1",
    "calibrate.alphas=[0.5]",
)

RecipePath = Annotated[Path | None, tyro.conf.Positional]
Overrides = Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]
Device = Literal["cpu", "cuda"]


def shipped_recipe(recipe: Path | None) -> Path:
    """The recipe that was named, or the one of the shipped task."""
    return recipe or find_resource("export/pushing.yaml")


def pipeline_command(
    recipe: RecipePath = None,
    set: Overrides = [],  # noqa: A002, B006
    run_folder: Path | None = None,
    output: Path | None = None,
    base: Path | None = None,
    teacher: str = "",
    last: Literal["collect", "data", "teacher", "queries", "distill", "correct", "calibrate", "export"] = "export",
    device: Device = "cpu",
    quick: bool = False,
) -> dict[str, Any]:
    """Run the stages from dataset to bundle; unchanged ones are skipped, interrupted ones resume.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. teacher.steps=5000; may be given again
        run_folder: checkpoints and metrics (default: runs/TASK)
        output: bundle folder (default: models/TASK)
        base: another run folder, whose stages with the same keys are taken over
        teacher: what is distilled, none is trained: a bundle (of the recipe's teacher.network), a LeRobot checkpoint's
            folder, or module:function (path/to/file.py:function) that makes one of the PolicySpec
        last: stage after which to stop
        device: that trains; other batches are drawn on another device, so weights differ beyond rounding
        quick: a few steps on a few episodes, in RUN/quick with its bundle: does everything work?
    """
    content = load_recipe(shipped_recipe(recipe), [*(QUICK if quick else ()), *set])
    name = slug(content.task)
    folder, target = run_folder or Path("runs") / name, output or Path("models") / name
    if quick:  # what lasted hours, and what is shipped, must not give way to this
        folder, target = folder / "quick", output or folder / "quick" / "bundle"
    pipeline = Pipeline(content, folder, target, ProgressPrinter(), **find_teacher(teacher, content), device=device)
    if base is not None:
        pipeline.take_over(base.resolve())
    stages = pipeline.run(last).record()
    result: dict[str, Any] = {"seed": content.seed, "quick": quick, "run_folder": str(folder), "stages": stages}
    if last == "export":
        result |= {"bundle": str(target), "bundle_sha256": stages["export"]["facts"]["bundle_sha256"]}
        print(f"bundle {target}, SHA-256 {result['bundle_sha256']} (spec, graphs, calibration)")
    return result


def collect_command(
    recipe: RecipePath = None,
    set: Overrides = [],  # noqa: A002, B006
    run_folder: Path | None = None,
) -> dict[str, Any]:
    """Record an expert's demonstrations, the pipeline's first stage.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. collect.episodes=100; may be given again
        run_folder: has the dataset (default: runs/TASK)
    """
    return pipeline_command(recipe, set, run_folder, last="collect")
