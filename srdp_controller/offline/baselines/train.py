"""Trains them: the knobs that suit the calibration trajectories best, as many steps as suit them, a graph each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from srdp_controller.certify.sample_distances import energy_scores
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
from srdp_controller.spec import PolicySpec

Knobs = dict[str, Any]
Train = Callable[[Pipeline, Knobs, int, Path, Progress], nn.Module]  # the third is the number of steps
Sampler = Callable[[Any, Tensor, Tensor], Tensor]  # network, observation (B, O), noise (B, draws, A) -> chunk (B, A)
LEARNING_RATES: tuple[Knobs, ...] = tuple({"learning_rate": factor} for factor in (1.0, 0.3, 3.0))
MIXTURES: tuple[Knobs, ...] = tuple({"components": m, "learning_rate": rate} for m in (5, 8) for rate in (1.0, 0.3))
TUNING_SHARE = 0.25  # of the steps, for each candidate
SCORED_STATES, SCORED_SAMPLES = 1024, 32


@dataclass(frozen=True)
class Method:
    """A training and, by policy, what is sampled from its network.

    Attributes:
        candidates: knobs to choose from; ``learning_rate`` is in units of a student's.
        draws: Gaussian draws of a whole chunk that one action takes.
        last: stage of the pipeline that it needs.
    """

    train: Train
    samplers: dict[str, Sampler]
    candidates: tuple[Knobs, ...] = LEARNING_RATES
    draws: int = 1
    last: str = "data"


def methods(recipe: Recipe) -> dict[str, Method]:
    """Every training of ``TRAININGS``."""

    def by_steps(name: str, sampler: Callable[..., Tensor], steps: Sequence[int]) -> dict[str, Sampler]:
        return {policy: partial(sampler, steps=k) for policy, k in zip(TRAININGS[name], steps, strict=True)}

    def diffusion(name: str, total: int, steps: Sequence[int]) -> Method:
        process = zero_terminal_snr(recipe.teacher.schedule, total)
        return Method(on_data(v_loss, process=process), by_steps(name, partial(ddim, process=process), steps))

    papers = {"intervals": 0.25, "power": 1.0}  # MeanFlow's
    return {
        "bc": Method(on_data(regression_loss), {"bc": regress}),
        "gmm": Method(on_data(mixture_loss, MixtureNetwork, ("components",)), {"gmm": draw}, MIXTURES, draws=2),
        **{f"diffusion_k{k}": diffusion(f"diffusion_k{k}", k, (k,)) for k in (1, 2, 4)},
        "zero_snr": diffusion("zero_snr", recipe.teacher.diffusion_steps, (1, 2, 4)),
        "flow": Method(
            on_data(flow_loss), by_steps("flow", euler, (1, 2, 4)), (*LEARNING_RATES, {"times": "logit_normal"})
        ),
        "meanflow": Method(
            on_data(mean_flow_loss, MeanFlowNetwork), {"meanflow_k1": mean_flow}, (*LEARNING_RATES, papers)
        ),
        "consistency": Method(
            from_teacher, {"consistency_k1": lambda student, s, noise: student(s, noise[:, 0])[0]}, last="queries"
        ),
    }


def on_data(
    loss: Callable[..., Tensor],
    network: Callable[..., nn.Module] = ChunkNetwork,
    builds: tuple[str, ...] = (),
    **fixed: Any,
) -> Train:
    """Train a student-sized ``network`` on the recipe's training split with a student's budget.

    ``loss`` takes network, observation, chunk, generator, ``fixed`` and the knobs, but for those in ``builds``, which
    the network takes.
    """

    def train(pipeline: Pipeline, knobs: Knobs, steps: int, folder: Path, progress: Progress) -> nn.Module:
        recipe, spec = pipeline.recipe, pipeline.spec
        budget, data = recipe.distill, samples(pipeline.split().train, spec)
        inputs = CommandInputs(spec, recipe.observation)
        observation, action, sent = map(torch.as_tensor, (data.observation, data.action, data.committed))
        torch.manual_seed(recipe.seed)
        sizes, own = budget.network or recipe.teacher.network, {name: knobs[name] for name in builds}
        model = network(spec.obs_dim, spec.horizon * spec.act_dim, sizes, prefix_columns(spec), **own)
        others = {name: value for name, value in knobs.items() if name not in ("learning_rate", *builds)}

        def minibatch(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
            index = torch.randint(0, len(observation), (budget.batch,), generator=generator)
            state = inputs(observation[index], sent[index], generator)
            return loss(model, state, action[index], generator, **fixed, **others), {}

        return fit(
            model,
            minibatch,
            folder=folder,
            name="network",
            steps=steps,
            learning_rate=budget.learning_rate * knobs.get("learning_rate", 1.0),
            ema_decay=budget.ema_decay,
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
        "learning_rate": recipe.distill.learning_rate * knobs["learning_rate"],
    }
    distillation = DistillRecipe.model_validate({**recipe.distill.model_dump(), **changes})
    return distill(pipeline.teacher(), 1, pipeline.queries(), distillation, recipe.seed, folder, progress)


def energy_score(chunks: Tensor, demonstrated: Tensor) -> float:
    """Mean energy score of chunks (n, m, A) drawn at n states where (n, A) was demonstrated."""
    return float(energy_scores(chunks.numpy(), demonstrated.numpy()).mean())


def calibration(pipeline: Pipeline, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Calibration states (n, O), their demonstrated chunks (n, A), and noise (n, m, draws, A)."""
    data, generator = samples(pipeline.split().calibration, pipeline.spec), torch.Generator().manual_seed(1)
    rows = torch.randperm(len(data.action), generator=generator)[:SCORED_STATES]
    parts = (torch.from_numpy(part)[rows] for part in (data.observation, data.action, data.committed))
    observation, action, sent = parts
    observation = CommandInputs(pipeline.spec, pipeline.recipe.observation)(observation, sent, generator)
    return observation, action, torch.randn(len(rows), SCORED_SAMPLES, draws, action.shape[1], generator=generator)


@torch.no_grad()
def drawn(network: nn.Module, sampler: Sampler, observation: Tensor, noise: Tensor) -> Tensor:
    """Chunks (n, m, A) at states (n, O) for noise (n, m, draws, A)."""
    states = observation.repeat_interleave(noise.shape[1], dim=0)
    return sampler(network, states, noise.flatten(0, 1)).clamp(-CLIP, CLIP).reshape(*noise.shape[:2], -1)


def drawn_by_graph(graph: bytes, spec: PolicySpec, observation: Tensor, noise: Tensor) -> Tensor:
    """The same from an exported graph, which takes and gives raw values."""
    (centre, scale), (action_centre, action_scale) = spec.observation_normalisation(), spec.action_normalisation()
    states = np.repeat(observation.numpy() * scale + centre, noise.shape[1], axis=0)
    shaped = noise.reshape(len(states), -1, spec.horizon, spec.act_dim).numpy()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (action,) = session.run(["action"], {"observation": states, "noise": shaped})
    return torch.from_numpy((action - action_centre) / action_scale).reshape(*noise.shape[:2], -1)


def train_policies(pipeline: Pipeline, name: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Choose a training's knobs, train it for ``steps``, export its policies; what NAME.json says of each.

    Where the candidate that was chosen scores better than after all its steps, it is exported as it was.

    The networks lie in ``folder``/trainings and go on where they were interrupted; what is complete is not done again.

    Raises:
        SrdpError: an exported graph does not compute what PyTorch computes.
    """
    recipe, method = pipeline.recipe, methods(pipeline.recipe)[name]
    settings = (recipe.seed, recipe.teacher, recipe.distill, method.candidates, pipeline.key(method.last))
    key = content_hash(name, steps, *settings)
    paths = [folder / f"{policy}.json" for policy in method.samplers]
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    if [record["key"] for record in records] == [key] * len(paths):
        return records
    place, progress = folder / "trainings" / f"{name}_{key[:12]}", pipeline.progress(name)
    observation, action, noise = calibration(pipeline, method.draws)
    began = time.monotonic()

    def fitted(where: str, knobs: Knobs, number: int) -> nn.Module:
        (place / where).mkdir(parents=True, exist_ok=True)
        with pipeline.on_device():
            network = method.train(pipeline, knobs, number, place / where, progress)
        return network.cpu()

    def score(network: nn.Module) -> float:
        samples_of_each = [drawn(network, sampler, observation, noise) for sampler in method.samplers.values()]
        return float(np.mean([energy_score(chunks, action) for chunks in samples_of_each]))

    few = max(1, round(TUNING_SHARE * steps))
    tried = [fitted(f"candidate_{index}", knobs, few) for index, knobs in enumerate(method.candidates)]
    scores = [score(network) for network in tried]
    best = int(np.argmin(scores))
    knobs, network, taken = method.candidates[best], fitted("chosen", method.candidates[best], steps), steps
    if scores[best] < score(network):  # on few demonstrations more steps learn them by heart
        network, taken = tried[best], few
    origin = {
        **describe_run("srdp experiment direct-policies", recipe.seed),
        "key": key,
        "recipe": content_hash(recipe),
        "dataset": pipeline.record()["data"]["facts"]["sha256"],
        "steps": taken,
        "batch": recipe.distill.batch,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "knobs": knobs,
        "candidates": [{**c, "energy_score": s} for c, s in zip(method.candidates, scores, strict=True)],
    }
    records = []
    for path, (policy, sampler) in zip(paths, method.samplers.items(), strict=True):
        graph = export_sampler(network, sampler, method.draws, pipeline.spec)
        chunks = drawn(network, sampler, observation, noise)
        error = float((drawn_by_graph(graph, pipeline.spec, observation, noise[:, :1]) - chunks[:, :1]).abs().max())
        if error > PARITY_TOLERANCE:
            raise SrdpError(f"{policy}: ONNX differs from PyTorch by {error:.2g} scales, more than {PARITY_TOLERANCE}")
        write_file(path.with_suffix(".onnx"), graph)
        record = {"policy": policy, **origin, "energy_score": energy_score(chunks, action), "graph_error": error}
        write_json(path, record)
        records.append(record)
    return records
