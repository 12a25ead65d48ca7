"""The state distribution mu = (1 - alpha) d_D + alpha d_aug, from offline mechanisms only (section 4 d).

| kind | augmented state |
| --- | --- |
| ``noise`` | s + sigma n |
| ``dropout`` | s with some features replaced by those of another state of the dataset |
| ``latent`` | Dec(Enc(s) + delta), with the teacher's trunk and reconstruction head |
| ``imagination`` | one step of a dynamics model, learned on the dataset, under a perturbed action |

Each kind only proposes states; the teacher is then queried there, and returns are never judged.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.offline.recipe import AugmentationKind, DistillRecipe
from srdp_controller.offline.training import load_state, save_atomically, train
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import mlp
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress


class DynamicsModel(nn.Module):
    """s' = s + g(s, a): one control step, learned on the dataset; everything normalised."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        super().__init__()
        self.layers = mlp([obs_dim + act_dim, 128, 128, obs_dim])

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Next observation (B, obs_dim) after one action (B, act_dim)."""
        return observation + self.layers(torch.cat([observation, action], dim=1))


def train_dynamics(
    observation: Tensor, action: Tensor, following: Tensor, steps: int, seed: int, path: Path, progress: Progress
) -> DynamicsModel:
    """Fit the one-step model, or load it from ``path`` when it is there; frozen.

    Observations, next observations (n, obs_dim) and actions (n, act_dim) are normalised.
    """
    torch.manual_seed(seed)
    model = DynamicsModel(observation.shape[1], action.shape[1])
    if not path.exists():
        # scaled by the size of a step, for most of s' is s; a goal that never moves must not count for all
        scale = (following - observation).std(dim=0)
        scale = scale.clamp(min=0.05 * float(scale.max()))

        def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
            index = torch.randint(0, len(observation), (256,), generator=generator)
            predicted = model(observation[index], action[index])
            error = ((predicted - following[index]) / scale).square().mean()
            return error, {"dynamics": float(error.detach())}

        trained = train(
            model,
            loss,
            steps=steps,
            learning_rate=1e-3,
            ema_decay=0.99,
            seed=seed,
            checkpoint=path.with_suffix(".checkpoint"),
            metrics=path.with_suffix(".jsonl"),
            progress=progress,
        )
        save_atomically(trained.state_dict(), path)
        path.with_suffix(".checkpoint").unlink(missing_ok=True)
    model.load_state_dict(load_state(path))  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


def _noise(state: Tensor, recipe: DistillRecipe, generator: torch.Generator) -> Tensor:
    return state + recipe.augmentation_noise * torch.randn(state.shape, generator=generator)


def _dropout(state: Tensor, recipe: DistillRecipe, generator: torch.Generator) -> Tensor:
    dropped = torch.rand(state.shape, generator=generator) < recipe.dropout_probability
    other = state[torch.randperm(len(state), generator=generator)]
    return torch.where(dropped, other, state)


def _latent(state: Tensor, teacher: SrdpTeacher, recipe: DistillRecipe, generator: torch.Generator) -> Tensor:
    latent = teacher.latent(state)
    scale = latent.std(dim=0, keepdim=True)
    return teacher.reconstruction(latent + recipe.latent_noise * scale * torch.randn(latent.shape, generator=generator))


@torch.no_grad()
def augment(
    state: Tensor,
    action: Tensor,
    kind: AugmentationKind,
    recipe: DistillRecipe,
    generator: torch.Generator,
    teacher: DiffusionTeacher,
    dynamics: DynamicsModel | None,
) -> Tensor:
    """Augmented states (n, obs_dim) of dataset states (n, obs_dim) and their actions (n, act_dim).

    Raises:
        SrdpError: ``latent`` needs a teacher with a reconstruction head.
    """
    if kind == "noise":
        return _noise(state, recipe, generator)
    if kind == "dropout":
        return _dropout(state, recipe, generator)
    if kind == "latent":
        if not isinstance(teacher, SrdpTeacher):
            raise SrdpError("distill.augmentations: latent needs an SRDP teacher with its reconstruction head")
        return _latent(state, teacher, recipe, generator)
    assert dynamics is not None
    perturbed = action + recipe.imagination_noise * torch.randn(action.shape, generator=generator)
    return dynamics(state, perturbed)
