"""Trains the correction head of late chunks (after A2C2, arXiv 2509.23224) on demonstrations and a policy's chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.queries import BLOCK
from srdp_controller.offline.recipe import CorrectorRecipe
from srdp_controller.offline.train_teacher import CommandInputs
from srdp_controller.offline.training import fit, seeded
from srdp_controller.policy.corrector import Corrector
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.student import Student
from srdp_controller.progress import Progress
from srdp_controller.spec import PolicySpec


@dataclass(frozen=True)
class LateChunks:
    """What a policy planned at steps of the demonstrations, and how long each demonstration goes on after them.

    Attributes:
        row: (n,) of the data, which step each chunk was planned at.
        observation: (n, obs_dim), what each chunk was planned from, commands of the controller's own filled in.
        chunk: (n, horizon, act_dim), the policy's.
        following: (n,) steps that the demonstration has after this one.
    """

    row: Tensor
    observation: Tensor
    chunk: Tensor
    following: Tensor


@torch.no_grad()
def plan_chunks(
    recipe: CorrectorRecipe,
    policy: DiffusionTeacher | Student,
    data: Samples,
    lengths: list[int],
    spec: PolicySpec,
    seed: int,
    progress: Progress,
    inputs: CommandInputs | None = None,
) -> LateChunks:
    """A chunk of ``policy`` at ``recipe.states`` rows of ``data``; ``lengths`` are those of its trajectories, in order.

    It is the one of ``recipe.candidates`` that is nearest to what was demonstrated there: where two ways are open, a
    chunk that went the other one would teach the head to turn back, and so to average over the ways.
    """
    generator = seeded(seed)
    observation, demonstrated = torch.as_tensor(data.observation), torch.as_tensor(data.action)
    if inputs is not None:
        observation = inputs(observation, torch.as_tensor(data.committed), generator)
    chosen = torch.randperm(len(observation), generator=generator)[: recipe.states].sort().values
    observation, demonstrated = observation[chosen], demonstrated[chosen]
    draws = policy.draws if isinstance(policy, Student) else 1
    chunks = []
    for start in range(0, len(observation), BLOCK):
        rows = slice(start, start + BLOCK)
        part = observation[rows].repeat_interleave(recipe.candidates, dim=0)
        noise = torch.randn(len(part), draws, policy.action_dim, generator=generator)
        if isinstance(policy, Student):
            answer = policy(part, noise if draws > 1 else noise[:, 0])[0]
        else:
            answer = policy.sample(part, noise[:, 0], steps=min(recipe.sampling_steps, policy.diffusion_steps))[0]
        answer = answer.clamp(-CLIP, CLIP)[:, policy.given]
        answer = answer.reshape(-1, recipe.candidates, answer.shape[1])
        nearest = (answer - demonstrated[rows, None]).square().sum(dim=2).argmin(dim=1)
        chunks.append(answer[torch.arange(len(answer)), nearest].reshape(-1, spec.horizon, spec.act_dim))
        progress(min(start + BLOCK, len(observation)), len(observation), "chunks to be corrected")
    following = torch.cat([torch.arange(length - 1, -1, -1) for length in lengths])
    return LateChunks(chosen, observation, torch.cat(chunks), following[chosen])


def train_corrector(
    recipe: CorrectorRecipe,
    data: Samples,
    late: LateChunks,
    spec: PolicySpec,
    seed: int,
    folder: Path,
    name: str,
    progress: Progress,
) -> Corrector:
    """Regress the demonstrated action less the planned one, whose chunk is 0 to horizon - 1 steps old."""
    torch.manual_seed(seed)
    horizon, act_dim = spec.horizon, spec.act_dim
    now = torch.as_tensor(data.observation)
    demonstrated = torch.as_tensor(data.action)[:, :act_dim]  # the first action of a row's chunk is that step's own

    def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        plan = torch.randint(0, len(late.row), (recipe.batch,), generator=generator)
        place = torch.randint(0, horizon, (recipe.batch,), generator=generator).minimum(late.following[plan])
        base, row = late.chunk[plan, place], late.row[plan] + place
        found = corrector(now[row], base, late.observation[plan], place[:, None] / horizon)
        error = (base + found - demonstrated[row]).square().mean()
        return error, {"uncorrected": (base - demonstrated[row]).square().mean()}

    corrector = Corrector(spec.obs_dim, act_dim, recipe.hidden)
    return fit(
        corrector,
        loss,
        folder=folder,
        name=name,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed,
        progress=progress,
    )
