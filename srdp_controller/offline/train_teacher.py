"""Trains the SRDP teacher (eq. 1 to 4) on action chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srdp_controller.offline.recipe import TeacherRecipe
from srdp_controller.offline.training import Progress, load_state, train
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.spec import PolicySpec


def build_teacher(recipe: TeacherRecipe, spec: PolicySpec) -> SrdpTeacher:
    """An untrained teacher of the recipe's size."""
    network = recipe.network
    return SrdpTeacher(
        spec.obs_dim,
        spec.horizon * spec.act_dim,
        network.trunk,
        network.latent,
        network.head,
        network.time_features,
        recipe.schedule,
        recipe.diffusion_steps,
    )


def load_teacher(recipe: TeacherRecipe, spec: PolicySpec, path: Path) -> SrdpTeacher:
    """A trained teacher, frozen."""
    teacher = build_teacher(recipe, spec)
    teacher.load_state_dict(load_state(path))  # type: ignore[arg-type]
    return teacher.eval().requires_grad_(False)


def train_teacher(
    recipe: TeacherRecipe,
    spec: PolicySpec,
    observations: np.ndarray,
    actions: np.ndarray,
    seed: int,
    folder: Path,
    progress: Progress,
) -> SrdpTeacher:
    """Train on normalised observations (n, obs_dim) and chunks (n, A); returns the EMA teacher."""
    torch.manual_seed(seed)
    teacher = build_teacher(recipe, spec)
    observation, action = torch.from_numpy(observations), torch.from_numpy(actions)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(0, len(observation), (recipe.batch,), generator=generator)
        return teacher.loss(observation[index], action[index], recipe.reconstruction_weight, generator)

    average = train(
        teacher,
        loss,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed,
        checkpoint=folder / "teacher.checkpoint",
        metrics=folder / "teacher.jsonl",
        progress=progress,
    )
    assert isinstance(average, SrdpTeacher)
    return average.eval()
