"""Cached teacher queries: the teacher is run once on states of mu, and every student learns from that.

This is section 7's amortisation: the cost of asking the teacher is paid before training. The states are those of the
dataset, a share of them disturbed (mu = (1 - alpha) d_D + alpha d_aug, section 4 d).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srdp_controller.offline.critic import TwinCritic, best_of_coupled
from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.recipe import QueryRecipe
from srdp_controller.offline.train_teacher import RandomPrefix
from srdp_controller.offline.training import load_state, save_atomically
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.samplers import skipped_steps
from srdp_controller.progress import Progress
from srdp_controller.spec import PolicySpec

BLOCK = 4096
GROUP = 8  # draws at one state that are matched to as many max-Q actions


@dataclass(frozen=True)
class TeacherQueries:
    """Cached teacher chains: states (n, obs_dim), latents (n, z) and levels (n, L, A).

    ``levels[:, i]`` is the chain at timestep ``timesteps[i]``; the first is pure noise, the last clean.
    """

    observation: Tensor
    latent: Tensor
    levels: Tensor
    timesteps: list[int]

    def __len__(self) -> int:
        return len(self.observation)

    def subset(self, rows: Tensor) -> TeacherQueries:
        """Only these rows."""
        return replace(self, observation=self.observation[rows], latent=self.latent[rows], levels=self.levels[rows])


@torch.no_grad()
def query_teacher(
    teacher: DiffusionTeacher,
    data: Samples,
    spec: PolicySpec,
    recipe: QueryRecipe,
    seed: int,
    progress: Progress,
    critic: TwinCritic | None = None,
    candidates: int = 1,
) -> TeacherQueries:
    """Run the teacher on ``recipe.queries`` states drawn from mu; its chains are kept where the students step.

    With a ``critic`` the answer is the max-Q action among ``candidates``, coupled to the noise by transport.
    """
    generator = torch.Generator().manual_seed(seed)
    observations = torch.from_numpy(data.observation)
    index = torch.randint(0, len(observations), (recipe.queries,), generator=generator)
    state = observations[index]
    augmented = torch.rand(recipe.queries, 1, generator=generator) < recipe.augmented_share
    state = state + augmented * recipe.augmentation_noise * torch.randn(state.shape, generator=generator)
    state = RandomPrefix(spec)(state, torch.from_numpy(data.committed)[index], generator)
    if critic is not None:
        levels = _guided_ends(teacher, critic, candidates, state, generator, progress)
        timesteps = [teacher.diffusion_steps, 0]
        state = state[: len(levels) // GROUP].repeat_interleave(GROUP, dim=0)
    else:
        timesteps = query_levels(teacher, recipe)
        levels = _chains(teacher, state, timesteps, generator, progress)
    latent = torch.cat([teacher.latent(part) for part in torch.split(state, BLOCK)])
    return TeacherQueries(state, latent, levels, timesteps)


def query_levels(teacher: DiffusionTeacher, recipe: QueryRecipe) -> list[int]:
    """Timesteps of the chain that are kept, falling: the students' own."""
    total = teacher.diffusion_steps
    return sorted({0, total, *(t for steps in recipe.students for t in skipped_steps(total, steps))}, reverse=True)


def save_queries(queries: TeacherQueries, path: Path) -> None:
    """Write queries for ``load_queries``."""
    save_atomically(queries.__dict__, path)


def load_queries(path: Path) -> TeacherQueries:
    """Queries that ``save_queries`` wrote."""
    return TeacherQueries(**load_state(path))  # type: ignore[arg-type]


def _chains(
    teacher: DiffusionTeacher, state: Tensor, timesteps: list[int], generator: torch.Generator, progress: Progress
) -> Tensor:
    """The teacher's chains (n, L, A) at ``timesteps``, one from each state (n, obs_dim)."""
    noise = torch.randn(len(state), teacher.action_dim, generator=generator)
    levels = []
    for start in range(0, len(state), BLOCK):
        part = slice(start, start + BLOCK)
        _, kept = teacher.sample(state[part], noise[part], keep=timesteps)
        levels.append(torch.stack(kept, dim=1))
        progress(min(start + BLOCK, len(state)), len(state), "teacher chains")
    return torch.cat(levels)


def _guided_ends(
    teacher: DiffusionTeacher,
    critic: TwinCritic,
    candidates: int,
    state: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """Noise and max-Q action (n, 2, A), ``GROUP`` at a state: a max-Q choice has no chain of its own."""
    states = state[: max(1, len(state) // GROUP)]
    levels, block = [], max(1, BLOCK // (GROUP * candidates))
    for start in range(0, len(states), block):
        part = states[start : start + block]
        noise, best = best_of_coupled(teacher, critic, part, candidates, GROUP, generator)
        levels.append(torch.stack([noise.flatten(0, 1), best.flatten(0, 1)], dim=1))
        progress(min(start + block, len(states)), len(states), "max-Q chains")
    return torch.cat(levels)
