"""Puts teacher, students and calibration together as a bundle, checked against PyTorch before it is in place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from srdp_controller.control.planner import soft_mask
from srdp_controller.engines.bundle import (
    INPAINTING,
    SCHEMA_VERSION,
    Bundle,
    FileEntry,
    LoadedBundle,
    PolicyEntry,
    load_bundle,
    sha256,
    write_bundle,
)
from srdp_controller.engines.corrector import CorrectorEngine
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.offline.export.graphs import (
    export_corrector,
    export_inpainting,
    export_student,
    export_teacher,
    noise_shape,
)
from srdp_controller.offline.export.inpainting import InpaintingGraph
from srdp_controller.offline.recipe import InpaintingRecipe
from srdp_controller.policy.corrector import Corrector
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.student import Student
from srdp_controller.progress import Progress
from srdp_controller.spec import PolicySpec

LONG_EVALUATIONS, LONG_STATES = 16, 8  # a policy of more evaluations is compared on fewer states
PARITY_TOLERANCE = 2e-3  # of an action's scale; float32 sums in another order through up to T steps


def assemble_bundle(
    target: Path,
    task: str,
    spec: PolicySpec,
    teacher: DiffusionTeacher,
    students: dict[str, Student],
    calibration: bytes,
    provenance: dict[str, Any],
    states: np.ndarray,
    report: Progress,
    correctors: Mapping[str, Corrector] = MappingProxyType({}),
    inpainting: InpaintingRecipe | None = None,
) -> tuple[LoadedBundle, dict[str, float]]:
    """Export, check parity on raw ``states`` (n, obs_dim), then replace ``target``; returns bundle and errors.

    Raises:
        SrdpError: an exported graph does not compute what PyTorch computes.
    """
    staging = target.with_name(target.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    policies: dict[str, PolicyEntry] = {}
    graphs: list[tuple[str, int, Student | None]] = [("teacher", teacher.diffusion_steps, None)]
    graphs += [(name, student.steps, student) for name, student in students.items()]
    for index, (name, steps, student) in enumerate(graphs):
        data = export_teacher(teacher, spec) if student is None else export_student(student, teacher, spec)
        write_file(staging / f"{name}.onnx", data)
        policies[name] = PolicyEntry(
            file=f"{name}.onnx",
            sha256=sha256(data),
            steps=steps,
            evaluations=steps,
            noise_shape=noise_shape(teacher if student is None else student, spec),
            latent_dim=teacher.latent_dim,
        )
        report(index + 1, len(graphs), name)
    if inpainting is not None and inpainting.steps:
        data = export_inpainting(teacher, spec, inpainting.steps, inpainting.largest_weight)
        write_file(staging / f"{INPAINTING}.onnx", data)
        policies[INPAINTING] = policies["teacher"].model_copy(
            update={
                "file": f"{INPAINTING}.onnx",
                "sha256": sha256(data),
                "steps": inpainting.steps,
                "evaluations": 2 * inpainting.steps,  # forwards and back
                "guided": True,
            }
        )
    heads: dict[str, FileEntry] = {}
    for name, corrector in correctors.items():
        data = export_corrector(corrector, spec)
        write_file(staging / f"corrector_{name}.onnx", data)
        heads[name] = FileEntry(file=f"corrector_{name}.onnx", sha256=sha256(data))
    write_file(staging / "calibration.json", calibration)
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        task=task,
        spec=spec,
        policies=policies,
        calibration=FileEntry(file="calibration.json", sha256=sha256(calibration)),
        correctors=heads,
        provenance=provenance,
    )
    write_bundle(staging, bundle)
    parity = parity_errors(staging, teacher, students, states, correctors, inpainting)
    worst = max(parity.values())
    if worst > PARITY_TOLERANCE:
        raise SrdpError(f"export: ONNX differs from PyTorch by {worst:.2g} scales, more than {PARITY_TOLERANCE:.0e}")
    # the old model card and results go too: they are of other graphs
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    return load_bundle(target), parity


@torch.no_grad()
def parity_errors(
    folder: Path,
    teacher: DiffusionTeacher,
    students: dict[str, Student],
    states: np.ndarray,
    correctors: Mapping[str, Corrector] = MappingProxyType({}),
    inpainting: InpaintingRecipe | None = None,
) -> dict[str, float]:
    """Largest difference (in scales of the action) of each exported graph from PyTorch on states (n, obs_dim), SI."""
    bundle = load_bundle(folder)
    spec = bundle.spec
    rng = np.random.default_rng(0)
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()
    every, errors = states, {}
    for name, entry in bundle.content.policies.items():
        states = every if entry.evaluations <= LONG_EVALUATIONS else every[:LONG_STATES]
        observation, n = torch.from_numpy((states - centre) / scale), len(states)
        noise = rng.standard_normal((n, *entry.noise_shape)).astype(np.float32)
        draws = torch.from_numpy(noise.reshape(n, entry.noise_shape[0], -1))
        guidance: tuple[np.ndarray, ...] = ()
        if entry.guided:
            assert inpainting is not None
            guidance = (
                (action_centre + action_scale * rng.standard_normal((n, spec.horizon, spec.act_dim))).astype(
                    np.float32
                ),
                np.tile(soft_mask(1, spec.horizon - 1, spec.horizon), (n, 1)),
            )
            graph = InpaintingGraph(teacher, spec, inpainting.steps, inpainting.largest_weight)
            answer = graph(*(torch.from_numpy(values) for values in (states, noise, *guidance)))[0]
            expected = (answer - torch.from_numpy(action_centre)) / torch.from_numpy(action_scale)
        elif name == "teacher":
            expected = teacher.sample(observation, draws[:, 0])[0].clamp(-CLIP, CLIP)[:, teacher.given]
        else:
            student = students[name]
            expected = student(observation, draws if student.draws > 1 else draws[:, 0])[0][:, student.given]
        chunk = expected.numpy().reshape(n, spec.horizon, spec.act_dim)
        found = (BatchedPolicy(bundle, name)(states, noise, *guidance) - action_centre) / action_scale
        errors[name] = float(np.abs(found - chunk).max())
    states, observation = every, torch.from_numpy((every - centre) / scale)
    for name, corrector in correctors.items():
        head = CorrectorEngine(bundle, name)
        head.observation[0], head.origin[0], head.base_action[0] = states[0], states[-1], action_centre
        head.run()
        planned, place = torch.zeros(1, spec.act_dim), torch.zeros(1, 1)
        residual = corrector(observation[:1], planned, observation[-1:], place).numpy()
        errors[f"corrector_{name}"] = float(np.abs(head.correction / action_scale - residual).max())
    return errors
