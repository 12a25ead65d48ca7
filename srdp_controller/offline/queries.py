"""Cached teacher queries: the teacher is run once on states of mu, and every student learns from that.

This is section 7's amortisation: the cost q_T T of asking the teacher is paid before training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srdp_controller.errors import SrdpError
from srdp_controller.offline.augmentation import DynamicsModel, augment
from srdp_controller.offline.critic import TwinCritic, best_of_coupled
from srdp_controller.offline.recipe import DistillRecipe
from srdp_controller.offline.train_teacher import CommandInputs
from srdp_controller.offline.training import load_state, save_atomically
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.progress import Progress

BLOCK = 4096
GROUP = 8  # draws at one state that are matched to as many max-Q actions


@dataclass(frozen=True)
class TeacherQueries:
    """Cached teacher chains: states (n, obs_dim), latents (n, z) and levels (n, L, A).

    ``levels[:, i]`` is the chain at timestep ``timesteps[i]``; the first is pure noise, the last clean.
    ``augmented`` (n,) tells which states are not the dataset's own.
    """

    observation: Tensor
    latent: Tensor
    levels: Tensor
    augmented: Tensor
    timesteps: list[int]

    def __len__(self) -> int:
        return len(self.observation)

    def subset(self, rows: Tensor) -> TeacherQueries:
        """Only these rows."""
        return replace(
            self,
            observation=self.observation[rows],
            latent=self.latent[rows],
            levels=self.levels[rows],
            augmented=self.augmented[rows],
        )


def query_levels(teacher: DiffusionTeacher, recipe: DistillRecipe) -> list[int]:
    """Timesteps of the chain that are kept, falling (q_T of section 7).

    ``teacher_timesteps`` = 1 keeps the terminal action only; 0 keeps what the students' own levels
    need; more adds evenly spaced ones to those.
    """
    total = teacher.diffusion_steps
    levels = {0, total}
    if recipe.teacher_timesteps != 1:
        levels |= {t for steps in recipe.students for t in skipped_steps(total, steps)}
        if recipe.teacher_timesteps:
            levels |= set(skipped_steps(total, min(total, recipe.teacher_timesteps)))
    return sorted(levels, reverse=True)


@torch.no_grad()
def query_teacher(
    teacher: DiffusionTeacher,
    observations: np.ndarray,
    recipe: DistillRecipe,
    seed: int,
    path: Path,
    progress: Progress,
    actions: np.ndarray,
    act_dim: int,
    committed: np.ndarray | None = None,
    dynamics: DynamicsModel | None = None,
    inputs: CommandInputs | None = None,
    critic: TwinCritic | None = None,
    candidates: int = 1,
) -> TeacherQueries:
    """Run the teacher on ``recipe.queries`` states drawn from mu; cached at ``path``.

    ``observations`` (n, obs_dim) and chunks ``actions`` (n, A) are the dataset's, normalised. With a
    ``critic`` the answer is the max-Q action among ``candidates``, coupled to the noise by transport.
    """
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        data = torch.from_numpy(observations)
        index = torch.randint(0, len(data), (recipe.queries,), generator=generator)
        state = data[index]
        augmented = torch.rand(recipe.queries, 1, generator=generator) < recipe.augmented_share
        if recipe.augmentations == ("noise",):
            state = state + augmented * recipe.augmentation_noise * torch.randn(state.shape, generator=generator)
        else:
            first = torch.from_numpy(actions[:, :act_dim])[index]
            state = _augment_some(state, first, augmented[:, 0], recipe, generator, teacher, dynamics)
        if inputs is not None and inputs.needed:
            state = inputs(state, torch.from_numpy(actions if committed is None else committed)[index], generator)
        marked = augmented[:, 0]
        if critic is not None:
            levels = _guided_ends(teacher, critic, candidates, state, generator, progress)
            timesteps = [teacher.diffusion_steps, 0]
            state, marked = (x[: len(levels) // GROUP].repeat_interleave(GROUP, dim=0) for x in (state, marked))
        else:
            timesteps = query_levels(teacher, recipe)
            levels = _chains(teacher, state, timesteps, generator, progress)
        save_atomically(
            {
                "observation": state,
                "latent": torch.cat([teacher.latent(part) for part in torch.split(state, BLOCK)]),
                "levels": levels,
                "augmented": marked,
                "timesteps": torch.tensor(timesteps),
            },
            path,
        )
    return load_queries(path)


def load_queries(path: Path) -> TeacherQueries:
    """Cached queries.

    Raises:
        SrdpError: the file lacks a field.
    """
    saved = load_state(path)
    try:
        return TeacherQueries(
            saved["observation"],  # type: ignore[arg-type]
            saved["latent"],  # type: ignore[arg-type]
            saved["levels"],  # type: ignore[arg-type]
            saved["augmented"],  # type: ignore[arg-type]
            saved["timesteps"].tolist(),  # type: ignore[attr-defined]
        )
    except KeyError as error:
        raise SrdpError(f"{path}: no field {error}; delete the file, the pipeline asks the teacher again") from None


def _augment_some(
    state: Tensor,
    action: Tensor,
    augmented: Tensor,
    recipe: DistillRecipe,
    generator: torch.Generator,
    teacher: DiffusionTeacher,
    dynamics: DynamicsModel | None,
) -> Tensor:
    """Augment the marked rows, each with one of the recipe's kinds."""
    chosen = torch.randint(0, len(recipe.augmentations), (len(state),), generator=generator)
    result = state.clone()
    for number, kind in enumerate(recipe.augmentations):
        rows = (augmented & (chosen == number)).nonzero()[:, 0]
        if len(rows):
            result[rows] = augment(state[rows], action[rows], kind, recipe, generator, teacher, dynamics)
    return result


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
