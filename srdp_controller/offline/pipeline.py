"""The offline pipeline: dataset -> teacher -> students -> calibration -> bundle, stage by stage.

A stage is skipped when its inputs' hash is that of its last completion (``stages.json`` in the run
folder); a stage that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdp_controller.engines.bundle import sha256
from srdp_controller.files import write_file
from srdp_controller.offline.augmentation import DynamicsModel, Transitions, train_dynamics
from srdp_controller.offline.calibrate import calibrate_students
from srdp_controller.offline.collect import DATASET, collect
from srdp_controller.offline.critic import TwinCritic, train_critic
from srdp_controller.offline.dataset import (
    Samples,
    Split,
    Trajectory,
    full_observations,
    load_d4rl,
    load_trajectories,
    samples,
    split_trajectories,
)
from srdp_controller.offline.distill import build_student, distill
from srdp_controller.offline.export.assemble import assemble_bundle
from srdp_controller.offline.queries import TeacherQueries, load_queries, query_teacher
from srdp_controller.offline.recipe import Recipe, content_hash, load_spec
from srdp_controller.offline.train_teacher import CommandInputs, load_teacher, train_teacher
from srdp_controller.offline.training import load_state, save_atomically
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress, Report
from srdp_controller.provenance import versions
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.spec import pushing_spec

PARITY_STATES = 256
TEACHER_THREADS = 2  # a fixed number: with others, sums round otherwise and the bundle's hash differs


@dataclass
class Run:
    """A run folder: recipe, stage record and artefacts.

    ``own_teacher`` takes the place of the recipe's: a teacher that was trained elsewhere. ``threads``
    is how many the teacher's training takes; runs beside each other take one each, or they only spin.
    """

    recipe: Recipe
    folder: Path
    report: Report
    own_teacher: DiffusionTeacher | None = None
    threads: int = TEACHER_THREADS

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()  # Minari joins a relative path to itself
        self.folder.mkdir(parents=True, exist_ok=True)
        observing = self.recipe.observation
        spec = load_spec(Path(self.recipe.data.spec)) if self.recipe.data.spec else pushing_spec()
        self.spec: PolicySpec = spec.extended(
            observing.observation_history, observing.command_history, observing.action_prefix
        )
        if self.own_teacher is not None:
            self.own_teacher = self.own_teacher.eval().requires_grad_(False)

    def record(self) -> dict[str, Any]:
        """What each completed stage was made from and what it found out."""
        path = self.folder / "stages.json"
        record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return record

    def stage(
        self, name: str, key: str, outputs: list[Path], work: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any]:
        """Run ``work`` unless it was completed for the same ``key`` and its outputs are still there."""
        record = self.record()
        done = record.get(name)
        if done and done["key"] == key and all(path.exists() for path in outputs):
            self.report(name, 1, 1, "unchanged, skipped")
            return dict(done["facts"])
        started = time.monotonic()
        facts = {**(work() or {}), "seconds": 0.0}
        facts["seconds"] = round(time.monotonic() - started, 1)
        record = self.record()
        record[name] = {"key": key, "facts": facts}
        write_file(self.folder / "stages.json", json.dumps(record, indent=1).encode())
        self.report(name, 1, 1, f"done in {facts['seconds']:.0f} s")
        return facts

    def progress(self, name: str) -> Progress:
        """Progress callback of a stage."""
        return lambda done, total, text: self.report(name, done, total, text)

    def discard_if_changed(self, name: str, key: str, *patterns: str) -> None:
        """Remove a stage's checkpoints when they were begun for other inputs."""
        mark = self.folder / f"{name}.key"
        if not mark.exists() or mark.read_text() != key:
            for pattern in patterns:
                for file in self.folder.glob(pattern):
                    file.unlink()
            write_file(mark, key.encode())

    # --- what each stage depends on ------------------------------------------------------------

    @property
    def dataset_key(self) -> str:
        """Hash of everything the dataset depends on."""
        data = self.recipe.data
        if data.source != "collect":
            return content_hash(data)
        collecting = self.recipe.collect.model_dump(
            mode="json", exclude={"calibration_share", "test_share", "processes"}
        )
        scenarios = [load_scenario(self.recipe.collect.scenario), load_scenario(self.recipe.collect.hole_scenario)]
        return content_hash(DATASET, collecting, self.recipe.seed, *scenarios)

    @property
    def teacher_key(self) -> str:
        """Hash of everything the teacher depends on."""
        shares = [self.recipe.collect.calibration_share, self.recipe.collect.test_share]
        if self.own_teacher is not None:
            weights = hashlib.sha256()
            for name, value in self.own_teacher.state_dict().items():
                weights.update(name.encode() + value.cpu().numpy().tobytes())
            process = [self.own_teacher.alpha_bar.tolist(), self.own_teacher.process.prediction]
            return content_hash(self.dataset_key, weights.hexdigest(), process, shares, self.spec)
        teacher, observing = self.recipe.teacher, self.recipe.observation
        return content_hash(self.dataset_key, teacher, observing, self.recipe.seed, shares, self.spec)

    @property
    def query_key(self) -> str:
        """Hash of everything the cached teacher queries depend on."""
        distilling = self.recipe.distill.model_dump(
            mode="json",
            include={
                "queries",
                "teacher_timesteps",
                "augmented_share",
                "augmentations",
                "augmentation_noise",
                "dropout_probability",
                "latent_noise",
                "imagination_noise",
                "imagination_steps",
                "students",
            },
        )
        return content_hash(self.teacher_key, distilling, self.recipe.seed)

    def student_key(self) -> str:
        """Hash of everything the students depend on."""
        return content_hash(self.query_key, self.recipe.distill.model_dump(mode="json", exclude={"processes"}))

    # --- the stages ----------------------------------------------------------------------------

    def collect(self) -> None:
        """Stage 1: demonstrations."""
        if self.recipe.data.source != "collect":
            return
        self.stage(
            "collect",
            self.dataset_key,
            [self.folder / "dataset" / DATASET / "data" / "main_data.hdf5"],
            lambda: collect(self.recipe.collect, self.recipe.seed, self.folder / "dataset", self.progress("collect")),
        )

    def trajectories(self) -> list[Trajectory]:
        """The dataset."""
        data = self.recipe.data
        if data.source == "d4rl":
            return load_d4rl(Path(data.dataset), self.spec)
        if data.source == "minari":
            return load_trajectories(None, data.dataset, self.spec, data.download)
        return load_trajectories(self.folder / "dataset", DATASET, self.spec)

    def split(self) -> Split:
        """The dataset's trajectories: training, calibration, test; the same at every call."""
        collecting = self.recipe.collect
        record = self.folder / "split.json"
        key = content_hash(self.dataset_key, collecting.calibration_share, collecting.test_share, self.recipe.seed)
        self.discard_if_changed("split", key, "split.json")
        return split_trajectories(
            self.trajectories(), collecting.calibration_share, collecting.test_share, self.recipe.seed, record
        )

    def train(self) -> None:
        """Stage 2: the teacher; with a critic first the behaviour policy, then Q, then the guided teacher."""
        if self.own_teacher is not None:
            return
        recipe, critic_recipe = self.recipe.teacher, self.recipe.teacher.critic

        def fit(name: str, data: Samples, critic: TwinCritic | None = None, start: SrdpTeacher | None = None) -> None:
            teacher = train_teacher(
                recipe,
                self.spec,
                data.observation,
                data.action,
                self.recipe.seed,
                self.folder,
                self.progress(name),
                following=data.following,
                committed=data.committed,
                inputs=CommandInputs(self.spec, self.recipe.observation),
                name=name,
                critic=critic,
                start=start,
            )
            save_atomically(teacher.state_dict(), self.folder / f"{name}.pt")
            (self.folder / f"{name}.checkpoint").unlink(missing_ok=True)

        def work() -> None:
            torch.set_num_threads(self.threads)
            kinds = ("checkpoint", "jsonl", "pt")
            names = [f"{name}.{kind}" for name in ("behaviour", "critic", "teacher") for kind in kinds]
            self.discard_if_changed("teacher", self.teacher_key, *names)
            data = samples(self.split().train, self.spec, critic_recipe.discount)
            if not critic_recipe.enabled:
                fit("teacher", data)
                return
            if not (self.folder / "behaviour.pt").exists():
                fit("behaviour", data)
            behaviour = load_teacher(recipe, self.spec, self.folder / "behaviour.pt")
            if not (self.folder / "critic.pt").exists():
                fitted = train_critic(
                    critic_recipe, behaviour, data, self.recipe.seed, self.folder, self.progress("critic")
                )
                save_atomically(fitted.state_dict(), self.folder / "critic.pt")
                (self.folder / "critic.checkpoint").unlink(missing_ok=True)
            fit("teacher", data, self.critic(), behaviour)

        self.stage("teacher", self.teacher_key, [self.folder / "teacher.pt"], work)

    def teacher(self) -> DiffusionTeacher:
        """The trained teacher, frozen."""
        if self.own_teacher is not None:
            return self.own_teacher
        return load_teacher(self.recipe.teacher, self.spec, self.folder / "teacher.pt")

    def critic(self) -> TwinCritic:
        """The trained critic, frozen."""
        critic = TwinCritic(self.spec.obs_dim, self.spec.horizon * self.spec.act_dim, self.recipe.teacher.critic.hidden)
        critic.load_state_dict(load_state(self.folder / "critic.pt"))  # type: ignore[arg-type]
        return critic.eval().requires_grad_(False)

    def student(self, steps: int) -> Student:
        """A trained student, frozen."""
        student = build_student(self.teacher(), steps, self.recipe.distill)
        student.load_state_dict(load_state(self.folder / f"student_k{steps}.pt"))  # type: ignore[arg-type]
        return student.eval().requires_grad_(False)

    def students(self) -> dict[str, Student]:
        """All trained students by name, frozen."""
        return {f"student_k{steps}": self.student(steps) for steps in self.recipe.distill.students}

    def dynamics(self, data: Samples) -> DynamicsModel | None:
        """The one-step model, where an augmentation needs it."""
        recipe = self.recipe.distill
        if "imagination" not in recipe.augmentations:
            return None
        act_dim = self.spec.act_dim
        observation, action, following = (
            torch.from_numpy(x) for x in (data.observation, data.action[:, :act_dim], data.following)
        )
        transitions = Transitions(observation, action, following)
        path = self.folder / "dynamics.pt"
        return train_dynamics(transitions, recipe.imagination_steps, self.recipe.seed, path, self.progress("dynamics"))

    def ask_teacher(self) -> TeacherQueries:
        """Stage 3: teacher queries."""
        recipe, path = self.recipe.distill, self.folder / "queries.pt"

        def ask() -> None:
            self.discard_if_changed("queries", self.query_key, "queries.pt", "dynamics.*")
            path.unlink(missing_ok=True)
            data = samples(self.split().train, self.spec)
            guided = self.recipe.teacher.critic.enabled and self.recipe.teacher.critic.best_of > 1
            query_teacher(
                self.teacher(),
                data.observation,
                recipe,
                self.recipe.seed,
                path,
                self.progress("queries"),
                actions=data.action,
                committed=data.committed,
                act_dim=self.spec.act_dim,
                dynamics=self.dynamics(data),
                inputs=CommandInputs(self.spec, self.recipe.observation),
                critic=self.critic() if guided else None,
                candidates=self.recipe.teacher.critic.best_of,
            )

        self.stage("queries", self.query_key, [path], ask)
        return load_queries(path)

    def distill(self) -> None:
        """Stage 3: teacher queries, then one student per K, several at a time."""
        recipe = self.recipe.distill
        if not recipe.students:
            return
        self.ask_teacher()
        names = [f"student_k{steps}" for steps in recipe.students]
        for name in names:
            self.discard_if_changed(name, self.student_key(), f"{name}.checkpoint", f"{name}.jsonl")
        self.discard_if_changed("progressive", self.student_key(), "progressive_*")

        def work() -> None:
            # the longest first, so that the processes end together and progressive stages follow each other
            ordered = sorted(recipe.students, reverse=True)
            processes = 1 if recipe.method == "progressive" or self.own_teacher is not None else recipe.processes
            if processes == 1:
                for steps in ordered:
                    self._distill_one(steps)
                return
            # spawned, not forked: torch's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
                futures = {
                    steps: pool.submit(_distill_in_process, self.recipe, self.folder, steps) for steps in ordered
                }
                while not all(future.done() for future in futures.values()):
                    self._report_students(recipe.students)
                    time.sleep(1.0)
                for future in futures.values():
                    future.result()

        self.stage("distill", self.student_key(), [self.folder / f"{name}.pt" for name in names], work)

    def _distill_one(self, steps: int) -> None:
        path = self.folder / f"student_k{steps}.pt"
        done = self.folder / f"student_k{steps}.done"
        if path.exists() and done.exists() and done.read_text() == self.student_key():
            return
        student = distill(
            self.teacher(),
            steps,
            load_queries(self.folder / "queries.pt"),
            self.recipe.distill,
            self.recipe.seed,
            self.folder,
            self.progress(f"student_k{steps}"),
        )
        save_atomically(student.state_dict(), path)
        write_file(done, self.student_key().encode())
        (self.folder / f"student_k{steps}.checkpoint").unlink(missing_ok=True)

    def _report_students(self, students: tuple[int, ...]) -> None:
        steps_done, texts = 0, []
        for steps in students:
            log = self.folder / f"student_k{steps}.jsonl"
            lines = log.read_text().splitlines() if log.exists() else []
            if lines:
                last = json.loads(lines[-1])
                steps_done += last["step"]
                texts.append(f"k{steps} {last['step']} ({last['action']:.4f})")
        self.report("distill", steps_done, len(students) * self.recipe.distill.steps, ", ".join(texts))

    def last_metrics(self) -> dict[str, Any]:
        """Last line of each network's metrics (``NAME.jsonl`` holds all of them)."""
        names = ["teacher", *(f"student_k{steps}" for steps in self.recipe.distill.students)]
        logs = {name: self.folder / f"{name}.jsonl" for name in names}
        return {name: json.loads(log.read_text().splitlines()[-1]) for name, log in logs.items() if log.exists()}

    def calibrate(self) -> None:
        """Stage 4: split conformal thresholds of each student's latent distance."""
        recipe = self.recipe

        def work() -> dict[str, Any]:
            students = self.students()
            calibration = calibrate_students(
                self.teacher(), students, self.split().calibration, self.spec, recipe.calibrate.alphas
            )
            write_file(self.folder / "calibration.json", calibration.model_dump_json(indent=1).encode())
            return {name: entry.thresholds for name, entry in calibration.policies.items()}

        key = content_hash(self.student_key(), recipe.calibrate)
        self.stage("calibrate", key, [self.folder / "calibration.json"], work)

    def held_out_states(self) -> np.ndarray:
        """Raw observations (n, obs_dim) of test trajectories."""
        states = np.concatenate([full_observations(trajectory, self.spec)[:-1] for trajectory in self.split().test])
        return states[np.random.default_rng(0).integers(len(states), size=PARITY_STATES)]

    def export(self, target: Path) -> None:
        """Stage 5: the bundle, parity-checked, put in place of ``target`` when it is whole; and the loss plots."""

        def work() -> dict[str, Any]:
            from srdp_controller.offline.plots import plot_losses

            stages = self.record()
            provenance = {
                "dataset": self.dataset_key,
                "split": sha256((self.folder / "split.json").read_bytes()),
                "recipe": content_hash(self.recipe),
                "seed": self.recipe.seed,
                "versions": versions(),
                "metrics": self.last_metrics(),
                "stages": {name: entry["facts"] for name, entry in stages.items() if name != "export"},
            }
            bundle, parity = assemble_bundle(
                target,
                self.recipe.task,
                self.spec,
                self.teacher(),
                self.students(),
                (self.folder / "calibration.json").read_bytes(),
                provenance,
                self.held_out_states(),
                self.progress("export"),
            )
            plot_losses(self.folder, self.folder / "losses.png")
            return {"parity_max_abs_error": parity, "bundle_sha256": bundle.identity()}

        # versions are part of the key: a newer exporter may write another graph
        key = content_hash(self.student_key(), self.recipe.calibrate, versions(), str(target.resolve()))
        self.stage("export", key, [target / "bundle.json"], work)


def _distill_in_process(recipe: Recipe, folder: Path, steps: int) -> None:
    Run(recipe, folder, lambda *_: None)._distill_one(steps)


STAGES = ("collect", "train", "distill", "calibrate", "export")


def run_pipeline(
    recipe: Recipe,
    folder: Path,
    target: Path,
    report: Report,
    last: str = "export",
    own_teacher: DiffusionTeacher | None = None,
    threads: int = TEACHER_THREADS,
) -> Run:
    """Run all stages up to ``last``; ``own_teacher`` takes the place of the one that would be trained."""
    run = Run(recipe, folder, report, own_teacher, threads)
    write_file(folder / "recipe.json", recipe.model_dump_json(indent=1).encode())
    for name in STAGES:
        if name == "export":
            run.export(target)
        else:
            getattr(run, name)()
        if name == last:
            break
    return run
