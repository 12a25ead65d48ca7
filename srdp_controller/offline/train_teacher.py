"""Trains the SRDP teacher (eq. 1 to 4) on action chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.offline.critic import TwinCritic, guidance
from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.recipe import ObservationRecipe, TeacherRecipe
from srdp_controller.offline.training import HELD_OUT, fit, seeded
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
        act_dim=spec.act_dim,
    )


class CommandInputs:
    """Fills in, at random, what the observation carries of the controller's own commands.

    Past commands are hidden from a share of the samples, because a policy that may always read its
    past learns to copy it; the committed actions are the first d that were really sent, d uniform from
    none to all (training-time real-time chunking).
    """

    def __init__(self, spec: PolicySpec, recipe: ObservationRecipe) -> None:
        self._history = [index for index, _, _ in spec.history_columns()]
        self._dropout = recipe.history_dropout
        centre, scale = spec.observation_normalisation()
        self._hidden = torch.as_tensor(-centre / scale)  # a command of zero, normalised
        self._prefix = prefix_columns(spec)
        self._steps = spec.prefix_steps

    def __call__(self, observation: Tensor, sent: Tensor, generator: torch.Generator) -> Tensor:
        """Observations (B, obs_dim) for the commands (B, A) that were sent from then on, normalised."""
        if not self._history and self._prefix is None:
            return observation
        observation = observation.clone()
        if self._history:
            hide = torch.rand(len(observation), generator=generator) < self._dropout
            for index in self._history:
                observation[hide, index] = self._hidden[index]
        if self._prefix is not None:
            length = torch.randint(0, self._steps + 1, (len(observation),), generator=generator)
            step = torch.arange(len(self._prefix.actions)) // self._prefix.act_dim
            columns = list(self._prefix.actions)
            committed = torch.where(step[None, :] < length[:, None], sent[:, : len(step)], self._hidden[columns])
            observation[:, columns] = committed
            observation[:, self._prefix.length] = length.to(observation.dtype)
        return observation


def _minibatches(
    data: Samples, inputs: CommandInputs | None
) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Draws so many states (B, obs_dim), with ``inputs`` filled in, and their chunks (B, A)."""
    observation, action, sent = map(torch.as_tensor, (data.observation, data.action, data.committed))

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(0, len(observation), (count,), generator=generator)
        state = observation[index]
        return state if inputs is None else inputs(state, sent[index], generator), action[index]

    return draw


def train_teacher(
    recipe: TeacherRecipe,
    spec: PolicySpec,
    data: Samples,
    seed: int,
    folder: Path,
    progress: Progress,
    *,
    inputs: CommandInputs | None = None,
    name: str = "teacher",
    critic: TwinCritic | None = None,
    start: SrdpTeacher | None = None,
    held_out: Samples | None = None,
) -> SrdpTeacher:
    """Train on normalised samples, with ``inputs`` filled in; returns the EMA teacher, frozen.

    With a ``critic`` this is the guided teacher, which goes on from ``start``. Its log has the denoising error on
    ``held_out`` beside that on what it learns from.
    """
    torch.manual_seed(seed)
    teacher = build_teacher(recipe, spec)
    if start is not None:
        teacher.load_state_dict(start.state_dict())
    learned = _minibatches(data, inputs)

    def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        state, chunk = learned(recipe.batch, generator)
        total, parts, clean = teacher.loss(state, chunk, recipe.reconstruction_weight, generator)
        if critic is not None:
            guided = guidance(critic, state, clean)
            total = total + recipe.critic.guidance_weight * guided
            parts["guidance"] = guided
        return total, parts

    def error(average: SrdpTeacher) -> Tensor:
        assert held_out is not None
        generator = seeded(seed)  # always the same states and noise
        state, chunk = _minibatches(held_out, inputs)(HELD_OUT, generator)
        return average.loss(state, chunk, 0.0, generator)[1]["denoising"]

    return fit(
        teacher,
        loss,
        held_out=None if held_out is None else error,
        folder=folder,
        name=name,
        steps=recipe.steps if critic is None else recipe.critic.policy_steps,
        learning_rate=recipe.learning_rate if critic is None else 0.3 * recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed,
        progress=progress,
    )
