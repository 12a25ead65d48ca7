"""The offline pipeline: dataset -> teacher -> students -> calibration -> bundle, stage by stage.

A stage is skipped when its inputs' hash is that of its last completion (``stages.json`` in the run
folder); a stage that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdp_controller.certify.conformal import conformal_threshold, trajectory_scores
from srdp_controller.engines.bundle import (
    SCHEMA_VERSION,
    Bundle,
    Calibration,
    FileEntry,
    PolicyCalibration,
    PolicyEntry,
    load_bundle,
    sha256,
    write_bundle,
    write_file,
)
from srdp_controller.engines.export import export_student, export_teacher
from srdp_controller.errors import SrdpError
from srdp_controller.offline.collect import collect
from srdp_controller.offline.dataset import Split, chunks, load_trajectories, split_trajectories
from srdp_controller.offline.distill import distill, query_teacher
from srdp_controller.offline.recipe import Recipe, content_hash
from srdp_controller.offline.train_teacher import load_teacher, train_teacher
from srdp_controller.offline.training import load_state, save_atomically
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.provenance import versions
from srdp_controller.simulation.pushing_task import pushing_spec
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.spec import PolicySpec

DATASET = "pushing/expert-v0"
PARITY_TOLERANCE = 2e-4  # m/s; float32 sums in another order through up to T steps
Report = Callable[[str, int, int, str], None]


@dataclass
class Run:
    """A run folder: recipe, stage record and artefacts."""

    recipe: Recipe
    folder: Path
    report: Report

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()  # Minari joins a relative path to itself
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spec: PolicySpec = pushing_spec()

    def _record(self) -> dict[str, Any]:
        path = self.folder / "stages.json"
        record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return record

    def stage(
        self, name: str, key: str, outputs: list[Path], work: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any]:
        """Run ``work`` unless it was completed for the same ``key`` and its outputs are still there."""
        record = self._record()
        done = record.get(name)
        if done and done["key"] == key and all(path.exists() for path in outputs):
            self.report(name, 1, 1, "unchanged, skipped")
            return dict(done["facts"])
        started = time.monotonic()
        facts = {**(work() or {}), "seconds": 0.0}
        facts["seconds"] = round(time.monotonic() - started, 1)
        record = self._record()
        record[name] = {"key": key, "facts": facts}
        write_file(self.folder / "stages.json", json.dumps(record, indent=1).encode())
        self.report(name, 1, 1, f"done in {facts['seconds']:.0f} s")
        return facts

    def progress(self, name: str) -> Callable[[int, int, str], None]:
        """Progress callback of a stage."""
        return lambda done, total, text: self.report(name, done, total, text)

    def discard_if_changed(self, name: str, key: str, *files: Path) -> None:
        """Remove a stage's checkpoints when they were begun for other inputs."""
        mark = self.folder / f"{name}.key"
        if not mark.exists() or mark.read_text() != key:
            for file in files:
                file.unlink(missing_ok=True)
            write_file(mark, key.encode())

    # --- the stages --------------------------------------------------------------------------

    @property
    def dataset_key(self) -> str:
        """Hash of everything the dataset depends on."""
        collecting = self.recipe.collect.model_dump(
            mode="json", exclude={"calibration_share", "test_share", "processes"}
        )
        scenarios = [load_scenario(self.recipe.collect.scenario), load_scenario(self.recipe.collect.hole_scenario)]
        return content_hash(collecting, self.recipe.seed, *scenarios)

    @property
    def teacher_key(self) -> str:
        """Hash of everything the teacher depends on."""
        shares = [self.recipe.collect.calibration_share, self.recipe.collect.test_share]
        return content_hash(self.dataset_key, self.recipe.teacher, self.recipe.seed, shares, self.spec)

    @property
    def query_key(self) -> str:
        """Hash of everything the cached teacher queries depend on."""
        distilling = self.recipe.distill
        return content_hash(
            self.teacher_key,
            [distilling.queries, distilling.augmented_share, distilling.augmentation_noise, distilling.students],
        )

    def student_key(self) -> str:
        """Hash of everything the students depend on."""
        return content_hash(self.query_key, self.recipe.distill.model_dump(mode="json", exclude={"processes"}))

    def collect(self) -> None:
        """Stage 1: demonstrations."""
        self.stage(
            "collect",
            self.dataset_key,
            [self.folder / "dataset" / DATASET / "data" / "main_data.hdf5"],
            lambda: collect(self.recipe.collect, self.recipe.seed, self.folder / "dataset", self.progress("collect")),
        )

    def split(self) -> Split:
        """The dataset's trajectories: training, calibration, test."""
        trajectories = load_trajectories(self.folder / "dataset", DATASET, self.spec)
        collecting = self.recipe.collect
        return split_trajectories(trajectories, collecting.calibration_share, collecting.test_share, self.recipe.seed)

    def train(self) -> None:
        """Stage 2: the teacher."""

        def work() -> None:
            self.discard_if_changed(
                "teacher", self.teacher_key, self.folder / "teacher.checkpoint", self.folder / "teacher.jsonl"
            )
            observations, actions = chunks(self.split().train, self.spec)
            teacher = train_teacher(
                self.recipe.teacher,
                self.spec,
                observations,
                actions,
                self.recipe.seed,
                self.folder,
                self.progress("teacher"),
            )
            save_atomically(teacher.state_dict(), self.folder / "teacher.pt")
            (self.folder / "teacher.checkpoint").unlink(missing_ok=True)

        self.stage("teacher", self.teacher_key, [self.folder / "teacher.pt"], work)

    def teacher(self) -> SrdpTeacher:
        """The trained teacher, frozen."""
        return load_teacher(self.recipe.teacher, self.spec, self.folder / "teacher.pt")

    def student(self, steps: int) -> Student:
        """A trained student, frozen."""
        student = Student(self.teacher(), steps)
        student.load_state_dict(load_state(self.folder / f"student_k{steps}.pt"))  # type: ignore[arg-type]
        return student.eval().requires_grad_(False)

    def distill(self) -> None:
        """Stage 3: teacher queries, then one student per K, several at a time."""
        recipe = self.recipe.distill
        queries = self.folder / "queries.pt"

        def ask() -> None:
            queries.unlink(missing_ok=True)
            observations, _ = chunks(self.split().train, self.spec)
            query_teacher(self.teacher(), observations, recipe, self.recipe.seed, queries, self.progress("queries"))

        self.stage("queries", self.query_key, [queries], ask)
        names = [f"student_k{steps}" for steps in recipe.students]
        for name in names:
            self.discard_if_changed(
                name, self.student_key(), self.folder / f"{name}.checkpoint", self.folder / f"{name}.jsonl"
            )

        def work() -> None:
            if recipe.processes == 1:
                for steps in recipe.students:
                    self._distill_one(steps)
                return
            # the longest first, so that the processes end together
            with ProcessPoolExecutor(recipe.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                ordered = sorted(recipe.students, reverse=True)
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
        teacher = self.teacher()
        queries = query_teacher(
            teacher, np.zeros((0, 0)), self.recipe.distill, 0, self.folder / "queries.pt", self.progress("queries")
        )
        student = distill(
            teacher,
            steps,
            queries,
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
        return {name: json.loads((self.folder / f"{name}.jsonl").read_text().splitlines()[-1]) for name in names}

    def calibrate(self) -> None:
        """Stage 4: split conformal thresholds of each student's latent distance."""
        recipe = self.recipe

        @torch.no_grad()
        def work() -> dict[str, Any]:
            centre, scale = self.spec.observation_normalisation()
            teacher = self.teacher()
            trajectories = self.split().calibration
            policies = {}
            for steps in recipe.distill.students:
                student = self.student(steps)
                distances = []
                for trajectory in trajectories:
                    observation = torch.from_numpy((trajectory.observation - centre) / scale)
                    gap = teacher.trunk(observation) - student.alignment(student.trunk(observation))
                    distances.append(gap.norm(dim=1).numpy())
                scores = trajectory_scores(distances)
                policies[f"student_k{steps}"] = PolicyCalibration(
                    thresholds={str(alpha): conformal_threshold(scores, alpha) for alpha in recipe.calibrate.alphas},
                    median_score=float(np.median(np.concatenate(distances))),
                )
            calibration = Calibration(score="latent_distance", trajectories=len(trajectories), policies=policies)
            write_file(self.folder / "calibration.json", calibration.model_dump_json(indent=1).encode())
            return {name: entry.thresholds for name, entry in policies.items()}

        key = content_hash(self.student_key(), recipe.calibrate)
        self.stage("calibrate", key, [self.folder / "calibration.json"], work)

    def export(self, target: Path) -> None:
        """Stage 5: the bundle, parity-checked, put in place of ``target`` when it is whole."""

        def work() -> dict[str, Any]:
            staging = target.with_name(target.name + ".tmp")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            teacher = self.teacher()
            latent = teacher.head.from_latent.in_features
            shape = (1, self.spec.horizon, self.spec.act_dim)
            policies: dict[str, PolicyEntry] = {}
            parity: dict[str, float] = {}
            graphs: list[tuple[str, int, Any]] = [("teacher", teacher.diffusion_steps, None)]
            graphs += [(f"student_k{steps}", steps, self.student(steps)) for steps in self.recipe.distill.students]
            for index, (name, steps, student) in enumerate(graphs):
                data = (
                    export_teacher(teacher, self.spec)
                    if student is None
                    else export_student(student, teacher, self.spec)
                )
                write_file(staging / f"{name}.onnx", data)
                policies[name] = PolicyEntry(
                    file=f"{name}.onnx",
                    sha256=sha256(data),
                    steps=steps,
                    evaluations=steps,
                    noise_shape=shape,
                    latent_dim=latent,
                )
                self.report("export", index + 1, len(graphs), name)
            calibration = (self.folder / "calibration.json").read_bytes()
            write_file(staging / "calibration.json", calibration)
            stages = self._record()
            write_bundle(
                staging,
                Bundle(
                    schema_version=SCHEMA_VERSION,
                    task=self.recipe.task,
                    spec=self.spec,
                    policies=policies,
                    calibration=FileEntry(file="calibration.json", sha256=sha256(calibration)),
                    provenance={
                        "dataset": self.dataset_key,
                        "recipe": content_hash(self.recipe),
                        "seed": self.recipe.seed,
                        "versions": versions(),
                        "metrics": self.last_metrics(),
                        "stages": {name: entry["facts"] for name, entry in stages.items() if name != "export"},
                    },
                ),
            )
            parity = self.check_parity(staging)
            worst = max(parity.values())
            if worst > PARITY_TOLERANCE:
                raise SrdpError(
                    f"export: ONNX differs from PyTorch by {worst:.2g} m/s, more than {PARITY_TOLERANCE:.0e}"
                )
            # the old model card and results go too: they are of other graphs
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
            return {"parity_max_abs_error": parity}

        # versions are part of the key: a newer exporter may write another graph
        key = content_hash(self.student_key(), self.recipe.calibrate, versions(), str(target.resolve()))
        self.stage("export", key, [target / "bundle.json"], work)

    @torch.no_grad()
    def check_parity(self, folder: Path) -> dict[str, float]:
        """Largest difference [m/s] of each exported graph from PyTorch on held-out states."""
        from srdp_controller.engines.onnx_engine import BatchedPolicy

        bundle = load_bundle(folder)
        teacher = self.teacher()
        rng = np.random.default_rng(0)
        states = np.concatenate([trajectory.observation for trajectory in self.split().test])
        states = states[rng.integers(len(states), size=256)]
        centre, scale = self.spec.observation_normalisation()
        action_centre, action_scale = self.spec.action_normalisation()
        observation = torch.from_numpy((states - centre) / scale)
        errors = {}
        for name, entry in bundle.content.policies.items():
            noise = rng.standard_normal((256, *entry.noise_shape)).astype(np.float32)
            flat = torch.from_numpy(noise.reshape(256, -1))
            if name == "teacher":
                expected = teacher.sample(observation, flat)[0]
            else:
                expected = self.student(entry.steps)(observation, flat)[0]
            chunk = expected.numpy().reshape(256, self.spec.horizon, self.spec.act_dim) * action_scale + action_centre
            errors[name] = float(np.abs(BatchedPolicy(bundle, name)(states, noise) - chunk).max())
        return errors


def _distill_in_process(recipe: Recipe, folder: Path, steps: int) -> None:
    Run(recipe, folder, lambda *_: None)._distill_one(steps)


STAGES = ("collect", "train", "distill", "calibrate", "export")


def run_pipeline(recipe: Recipe, folder: Path, target: Path, report: Report, last: str = "export") -> None:
    """Run all stages up to ``last``."""
    run = Run(recipe, folder, report)
    write_file(folder / "recipe.json", recipe.model_dump_json(indent=1).encode())
    for name in STAGES:
        if name == "export":
            run.export(target)
        else:
            getattr(run, name)()
        if name == last:
            return
