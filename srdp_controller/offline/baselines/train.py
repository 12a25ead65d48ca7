"""Trains them: the knobs that suit the calibration trajectories best, the full budget with those, a graph each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file, write_json
from srdp_controller.offline.baselines import TRAININGS
from srdp_controller.offline.baselines.diffusion import ddim, v_loss, zero_terminal_snr
from srdp_controller.offline.baselines.flow import MeanFlowNetwork, euler, flow_loss, mean_flow, mean_flow_loss
from srdp_controller.offline.baselines.network import ChunkNetwork
from srdp_controller.offline.baselines.regression import MixtureNetwork, draw, mixture_loss, regress, regression_loss
from srdp_controller.offline.dataset import samples
from srdp_controller.offline.distill import distill
from srdp_controller.offline.export.assemble import PARITY_TOLERANCE
from srdp_controller.offline.export.graphs import export_sampler
from srdp_controller.offline.pipeline import Pipeline
from srdp_controller.offline.recipe import DistillRecipe, Recipe, content_hash
from srdp_controller.offline.train_teacher import CommandInputs, prefix_columns
from srdp_controller.offline.training import fit
from srdp_controller.policy.samplers import CLIP
from srdp_controller.progress import Progress
from srdp_controller.provenance import describe_run

Knobs = dict[str, Any]
Loss = Callable[..., Tensor]  # network, observation (B, O), chunk (B, A), generator, **knobs -> a number
Sampler = Callable[[Any, Tensor, Tensor], Tensor]  # network, observation (B, O), noise (B, draws, A) -> chunk (B, A)
LEARNING_RATES: tuple[Knobs, ...] = tuple({"learning_rate": factor} for factor in (1.0, 0.3, 3.0))
TUNING_SHARE = 0.25  # of the steps, for each candidate
SCORED_STATES, SCORED_SAMPLES = 1024, 32


@dataclass(frozen=True)
class Method:
    """A training and what is sampled from its network.

    Attributes:
        train: of pipeline, knobs, number of steps, folder and progress.
        samplers: by policy.
        candidates: knobs to choose from; ``learning_rate`` is in units of the teacher's.
        draws: Gaussian draws of a whole chunk that one action takes.
        last: stage of the pipeline that it needs.
    """

    train: Callable[[Pipeline, Knobs, int, Path, Progress], nn.Module]
    samplers: dict[str, Sampler]
    candidates: tuple[Knobs, ...] = LEARNING_RATES
    draws: int = 1
    last: str = "data"


def _by_steps(names: tuple[str, ...], sampler: Callable[..., Tensor], *steps: int, **fixed: Any) -> dict[str, Sampler]:
    return {name: partial(sampler, steps=k, **fixed) for name, k in zip(names, steps, strict=True)}


def methods(recipe: Recipe) -> dict[str, Method]:
    """Every training of ``TRAININGS``."""

    def diffusion(name: str, total: int, *steps: int) -> Method:
        process = zero_terminal_snr(recipe.teacher.schedule, total)
        return Method(on_data(v_loss, process=process), _by_steps(TRAININGS[name], ddim, *steps, process=process))

    euler_steps = _by_steps(TRAININGS["flow"], euler, 1, 2, 4)
    mixtures = tuple({"components": m, "learning_rate": rate} for m in (5, 8) for rate in (1.0, 0.3))
    return {
        "bc": Method(on_data(regression_loss), {"bc": regress}),
        "gmm": Method(on_data(mixture_loss, MixtureNetwork, "components"), {"gmm": draw}, mixtures, draws=2),
        "diffusion_k1": diffusion("diffusion_k1", 1, 1),
        "diffusion_k2": diffusion("diffusion_k2", 2, 2),
        "diffusion_k4": diffusion("diffusion_k4", 4, 4),
        "zero_snr": diffusion("zero_snr", recipe.teacher.diffusion_steps, 1, 2, 4),
        "flow": Method(on_data(flow_loss), euler_steps, (*LEARNING_RATES, {"times": "logit_normal"})),
        "meanflow": Method(
            on_data(mean_flow_loss, MeanFlowNetwork),
            {"meanflow_k1": mean_flow},
            (*LEARNING_RATES, {"intervals": 0.25, "power": 1.0}),  # the last is the paper's
        ),
        "consistency": Method(
            from_teacher, {"consistency_k1": lambda student, s, noise: student(s, noise[:, 0])[0]}, last="queries"
        ),
    }


def on_data(
    loss: Loss, network: Callable[..., nn.Module] = ChunkNetwork, *builds: str, **fixed: Any
) -> Callable[[Pipeline, Knobs, int, Path, Progress], nn.Module]:
    """Train ``network`` on the recipe's training split as its teacher is; the knobs in ``builds`` are the network's."""

    def train(pipeline: Pipeline, knobs: Knobs, steps: int, folder: Path, progress: Progress) -> nn.Module:
        recipe, spec = pipeline.recipe, pipeline.spec
        teacher, data = recipe.teacher, samples(pipeline.split().train, spec)
        inputs = CommandInputs(spec, recipe.observation)
        observation, action, sent = map(torch.from_numpy, (data.observation, data.action, data.committed))
        torch.manual_seed(recipe.seed)
        sizes = recipe.distill.network or teacher.network
        model = network(
            spec.obs_dim,
            spec.horizon * spec.act_dim,
            sizes,
            prefix_columns(spec),
            **{name: knobs[name] for name in builds},
        )
        others = {name: value for name, value in knobs.items() if name not in ("learning_rate", *builds)}

        def minibatch(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
            index = torch.randint(0, len(observation), (teacher.batch,), generator=generator)
            state = inputs(observation[index], sent[index], generator)
            return loss(model, state, action[index], generator, **fixed, **others), {}

        return fit(
            model,
            minibatch,
            folder=folder,
            name="network",
            steps=steps,
            learning_rate=teacher.learning_rate * knobs.get("learning_rate", 1.0),
            ema_decay=teacher.ema_decay,
            seed=recipe.seed,
            progress=progress,
        )

    return train


def from_teacher(pipeline: Pipeline, knobs: Knobs, steps: int, folder: Path, progress: Progress) -> nn.Module:
    """Consistency distillation (Song et al., 2023) from the recipe's teacher: no anchor, which is our own method's."""
    recipe = pipeline.recipe
    changes = {
        "method": "consistency",
        "anchor_weight": 0.0,
        "latent_weight": 0.0,
        "steps": steps,
        "batch": recipe.teacher.batch,
        "learning_rate": recipe.teacher.learning_rate * knobs["learning_rate"],
    }
    distillation = DistillRecipe.model_validate({**recipe.distill.model_dump(), **changes})
    return distill(pipeline.teacher(), 1, pipeline.queries(), distillation, recipe.seed, folder, progress)


def energy_score(chunks: Tensor, demonstrated: Tensor) -> float:
    """Mean of |X - y| - |X - X'| / 2 over chunks X (n, m, A) drawn at n states and the demonstrated y (n, A).

    A strictly proper scoring rule (Gneiting and Raftery, 2007): least for the distribution that y was drawn from,
    so that one demonstration at each state judges means, mixtures and samplers alike.
    """
    m = chunks.shape[1]
    apart = torch.cdist(chunks, chunks).sum(dim=(1, 2)).mean() / (m * (m - 1))
    return float((chunks - demonstrated[:, None]).norm(dim=2).mean() - 0.5 * apart)


class Calibration:
    """States of the calibration trajectories, each with its demonstrated chunk and draws of noise."""

    def __init__(self, pipeline: Pipeline, draws: int) -> None:
        data, generator = samples(pipeline.split().calibration, pipeline.spec), torch.Generator().manual_seed(1)
        rows = torch.randperm(len(data.action), generator=generator)[:SCORED_STATES]
        observation, self.action, sent = (
            torch.from_numpy(part)[rows] for part in (data.observation, data.action, data.committed)
        )
        inputs = CommandInputs(pipeline.spec, pipeline.recipe.observation)
        self.observation = inputs(observation, sent, generator)
        self.noise = torch.randn(len(rows), SCORED_SAMPLES, draws, self.action.shape[1], generator=generator)

    @torch.no_grad()
    def score(self, network: nn.Module, sampler: Sampler) -> float:
        """Energy score of a policy's chunks."""
        observation = self.observation.repeat_interleave(SCORED_SAMPLES, dim=0)
        chunks = sampler(network, observation, self.noise.flatten(0, 1)).clamp(-CLIP, CLIP)
        return energy_score(chunks.reshape(*self.noise.shape[:2], -1), self.action)

    @torch.no_grad()
    def graph_error(self, graph: bytes, network: nn.Module, sampler: Sampler, pipeline: Pipeline) -> float:
        """Largest difference (in scales of the action) of an exported graph from PyTorch."""
        spec, noise = pipeline.spec, self.noise[:, 0]
        centre, scale = spec.observation_normalisation()
        action_centre, action_scale = spec.action_normalisation()
        expected = sampler(network, self.observation, noise).clamp(-CLIP, CLIP).numpy()
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        draws = noise.reshape(*noise.shape[:2], spec.horizon, spec.act_dim).numpy()
        (found,) = session.run(["action"], {"observation": self.observation.numpy() * scale + centre, "noise": draws})
        return float(np.abs((found - action_centre) / action_scale - expected.reshape(found.shape)).max())


def train_policies(pipeline: Pipeline, name: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Choose a training's knobs, train it for ``steps``, export its policies; what NAME.json says of each.

    The networks lie in ``folder``/trainings and go on where they were interrupted; what is complete is not done again.

    Raises:
        SrdpError: an exported graph does not compute what PyTorch computes.
    """
    recipe, method = pipeline.recipe, methods(pipeline.recipe)[name]
    settings = [recipe.distill] if name == "consistency" else [recipe.distill.network]
    key = content_hash(
        name, steps, method.candidates, recipe.seed, recipe.teacher, *settings, pipeline.key(method.last)
    )
    records = {policy: folder / f"{policy}.json" for policy in method.samplers}
    known = [json.loads(path.read_text()) for path in records.values() if path.exists()]
    if [one["key"] for one in known] == [key] * len(records) and all(
        p.with_suffix(".onnx").exists() for p in records.values()
    ):
        return known
    place, progress = folder / "trainings" / f"{name}_{key[:12]}", pipeline.progress(name)
    calibration = Calibration(pipeline, method.draws)
    began = time.monotonic()

    def fitted(where: str, knobs: Knobs, number: int) -> nn.Module:
        (place / where).mkdir(parents=True, exist_ok=True)
        return method.train(pipeline, knobs, number, place / where, progress)

    candidates = []
    for index, knobs in enumerate(method.candidates):
        network = fitted(f"candidate_{index}", knobs, max(1, round(TUNING_SHARE * steps)))
        scores = [calibration.score(network, sampler) for sampler in method.samplers.values()]
        candidates.append({**knobs, "energy_score": float(np.mean(scores))})
    best = min(range(len(candidates)), key=lambda index: candidates[index]["energy_score"])
    network = fitted("chosen", method.candidates[best], steps)
    seconds = time.monotonic() - began
    found = []
    for policy, sampler in method.samplers.items():
        graph = export_sampler(network, sampler, method.draws, pipeline.spec)
        error = calibration.graph_error(graph, network, sampler, pipeline)
        if error > PARITY_TOLERANCE:
            raise SrdpError(f"{policy}: ONNX differs from PyTorch by {error:.2g} scales, more than {PARITY_TOLERANCE}")
        record = {
            **describe_run("srdp experiment direct-policies", recipe.seed),
            "policy": policy,
            "key": key,
            "recipe": content_hash(recipe),
            "dataset": pipeline.record()["data"]["facts"]["sha256"],
            "steps": steps,
            "batch": recipe.teacher.batch,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds": round(seconds, 1),
            "knobs": method.candidates[best],
            "candidates": candidates,
            "energy_score": calibration.score(network, sampler),
            "graph_error": error,
        }
        write_file(folder / f"{policy}.onnx", graph)
        write_json(records[policy], record)
        found.append(record)
    return found
