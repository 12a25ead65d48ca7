"""Trains the SRDP teacher (eq. 1 to 4) on action chunks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.offline.critic import TwinCritic, guidance
from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.recipe import ObservationRecipe, TeacherRecipe
from srdp_controller.offline.training import fit
from srdp_controller.policy.networks import PrefixColumns
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress
from srdp_controller.spec import PolicySpec


def prefix_columns(spec: PolicySpec) -> PrefixColumns | None:
    """Where a normalised observation carries committed actions, or None where it does not."""
    length = spec.prefix_length_index
    if length is None:
        return None
    columns = spec.prefix_columns()
    order = [columns[step, number] for step in range(spec.prefix_steps) for number in range(spec.act_dim)]
    return PrefixColumns(tuple(order), length, spec.act_dim)


def build_teacher(recipe: TeacherRecipe, spec: PolicySpec) -> SrdpTeacher:
    """An untrained teacher of the recipe's size."""
    return SrdpTeacher(
        spec.obs_dim,
        spec.horizon * spec.act_dim,
        **recipe.network.model_dump(),
        schedule=recipe.schedule,
        diffusion_steps=recipe.diffusion_steps,
        prediction=recipe.prediction,
        trunk_input=recipe.trunk_input,
        prefix=prefix_columns(spec),
    )


class RandomPrefix:
    """Commits the controller, at random, to the beginning of what was really sent (training-time real-time chunking).

    The number of committed actions is uniform from none to all that the observation has room for. Where it has none,
    observations stay as they are.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._prefix = prefix_columns(spec)
        self._steps = spec.prefix_steps
        centre, scale = spec.observation_normalisation()
        self._nothing = torch.from_numpy(-centre / scale)  # a command of zero, normalised

    def __call__(self, observation: Tensor, sent: Tensor, generator: torch.Generator) -> Tensor:
        """Observations (B, obs_dim) for the commands (B, A) that were sent from then on, normalised."""
        if self._prefix is None:
            return observation
        observation, columns = observation.clone(), list(self._prefix.actions)
        length = torch.randint(0, self._steps + 1, (len(observation),), generator=generator)
        step = torch.arange(len(columns)) // self._prefix.act_dim
        committed = step[None, :] < length[:, None]
        observation[:, columns] = torch.where(committed, sent[:, : len(columns)], self._nothing[columns][None, :])
        observation[:, self._prefix.length] = length.to(observation.dtype)
        return observation


def train_teacher(
    recipe: TeacherRecipe,
    spec: PolicySpec,
    data: Samples,
    seed: int,
    folder: Path,
    progress: Progress,
    *,
    name: str = "teacher",
    critic: TwinCritic | None = None,
    start: SrdpTeacher | None = None,
) -> SrdpTeacher:
    """Train on normalised data; returns the EMA teacher. With a ``critic`` the guided one, which goes on from ``start``."""
    torch.manual_seed(seed)
    teacher = build_teacher(recipe, spec)
    if start is not None:
        teacher.load_state_dict(start.state_dict())
    observation, action, committed = (torch.from_numpy(x) for x in (data.observation, data.action, data.committed))
    prefix = RandomPrefix(spec)

    def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(0, len(observation), (recipe.batch,), generator=generator)
        state = prefix(observation[index], committed[index], generator)
        total, parts, clean = teacher.loss(state, action[index], recipe.reconstruction_weight, generator)
        if critic is not None:
            guided = guidance(critic, state, clean)
            total = total + recipe.critic.guidance_weight * guided
            parts["guidance"] = float(guided.detach())
        return total, parts

    average = train(
        teacher,
        loss,
        steps=recipe.steps if critic is None else recipe.critic.policy_steps,
        learning_rate=recipe.learning_rate if critic is None else 0.3 * recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed,
        checkpoint=folder / f"{name}.checkpoint",
        metrics=folder / f"{name}.jsonl",
        progress=progress,
    )
    assert isinstance(average, SrdpTeacher)
    return average.eval()
