"""Cached teacher queries: the teacher is run once on states of mu, and every student learns from that.

This is section 7's amortisation: the cost q_T T of asking the teacher is paid before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srdp_controller.offline.critic import TwinCritic, best_of_coupled
from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.recipe import QueryRecipe
from srdp_controller.offline.train_teacher import CommandInputs
from srdp_controller.offline.training import load_state, save_atomically, seeded
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.progress import Progress

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
        return TeacherQueries(self.observation[rows], self.latent[rows], self.levels[rows], self.timesteps)


def query_levels(teacher: DiffusionTeacher, students: Sequence[int]) -> list[int]:
    """Timesteps of the chain that are kept, falling: those that the students' own levels need."""
    total = teacher.diffusion_steps
    return sorted({0, total}.union(*(skipped_steps(total, steps) for steps in students)), reverse=True)


@torch.no_grad()
def query_teacher(
    teacher: DiffusionTeacher,
    data: Samples,
    recipe: QueryRecipe,
    seed: int,
    progress: Progress,
    inputs: CommandInputs | None = None,
    critic: TwinCritic | None = None,
    candidates: int = 1,
) -> TeacherQueries:
    """Run the teacher on ``recipe.queries`` states drawn from mu = (1 - alpha) d_D + alpha d_aug (section 4 d).

    An augmented state is one of the dataset with Gaussian noise. With a ``critic`` the answer is the max-Q action
    among ``candidates``, coupled to the noise by transport.
    """
    generator = seeded(seed)
    observation, sent = torch.as_tensor(data.observation), torch.as_tensor(data.committed)
    index = torch.randint(0, len(observation), (recipe.queries,), generator=generator)
    state = observation[index]
    augmented = torch.rand(recipe.queries, 1, generator=generator) < recipe.augmented_share
    state = state + augmented * recipe.augmentation_noise * torch.randn(state.shape, generator=generator)
    if inputs is not None:
        state = inputs(state, sent[index], generator)
    if critic is not None:
        levels = _guided_ends(teacher, critic, candidates, state, generator, progress)
        timesteps = [teacher.diffusion_steps, 0]
        state = state[: len(levels) // GROUP].repeat_interleave(GROUP, dim=0)
    else:
        timesteps = query_levels(teacher, recipe.students)
        levels = _chains(teacher, state, recipe.chain_steps, timesteps, generator, progress)
    latent = torch.cat([teacher.latent(part) for part in torch.split(state, BLOCK)])
    return TeacherQueries(state, latent, levels, timesteps)


def save_queries(queries: TeacherQueries, path: Path) -> None:
    """Write cached queries, whole or not at all."""
    save_atomically(vars(queries), path)


def load_queries(path: Path) -> TeacherQueries:
    """Cached queries, as ``save_queries`` wrote them."""
    return TeacherQueries(**load_state(path))


def _chains(
    teacher: DiffusionTeacher,
    state: Tensor,
    steps: int | None,
    timesteps: list[int],
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """The teacher's chains (n, L, A) of ``steps`` at ``timesteps``, one from each state (n, obs_dim)."""
    noise = torch.randn(len(state), teacher.action_dim, generator=generator)
    levels = []
    for start in range(0, len(state), BLOCK):
        part = slice(start, start + BLOCK)
        _, kept = teacher.sample(state[part], noise[part], steps, keep=timesteps)
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
