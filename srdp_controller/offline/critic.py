"""Diffusion-QL's critic, for a guided teacher (section 9: distillation then targets the guided one).

Trained after the behaviour policy and before the guided one, so that each is a resumable stage of its
own: Q evaluates the behaviour teacher on whole chunks (the horizon's rewards, then Q of the teacher's
next chunk), and the guided teacher adds -eta E[Q(s, a_0)] / E|Q| to eq. 4, with a_0 the one-step
estimate from the noisy action (Kang et al., Efficient Diffusion Policies, 2023).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.offline.dataset import Samples
from srdp_controller.offline.recipe import CriticRecipe
from srdp_controller.offline.training import fit
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import mlp
from srdp_controller.progress import Progress


class TwinCritic(nn.Module):
    """Two action values Q(s, chunk); their minimum counts (Fujimoto et al., 2018)."""

    def __init__(self, obs_dim: int, action: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.first = mlp([obs_dim + action, *hidden, 1])
        self.second = mlp([obs_dim + action, *hidden, 1])

    def both(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q_1 and Q_2 (B,) of observations (B, obs_dim) and chunks (B, A), normalised."""
        x = torch.cat([observation, action], dim=1)
        return self.first(x)[:, 0], self.second(x)[:, 0]

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """min(Q_1, Q_2) (B,)."""
        return torch.minimum(*self.both(observation, action))


def train_critic(
    recipe: CriticRecipe,
    behaviour: DiffusionTeacher,
    data: Samples,
    seed: int,
    folder: Path,
    progress: Progress,
) -> TwinCritic:
    """Fit Q of the behaviour teacher on the dataset's rewards; returns the slowly averaged critic."""
    torch.manual_seed(seed)
    critic = TwinCritic(behaviour.obs_dim, behaviour.action_dim, recipe.hidden)
    observation, action, reward, later, discount = (
        torch.as_tensor(x) for x in (data.observation, data.action, data.chunk_return, data.later, data.later_discount)
    )

    def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(average, TwinCritic)
        index = torch.randint(0, len(observation), (recipe.batch,), generator=generator)
        with torch.no_grad():
            noise = torch.randn(recipe.batch, behaviour.action_dim, generator=generator)
            steps = min(recipe.next_action_steps, behaviour.diffusion_steps)
            following, _ = behaviour.sample(later[index], noise, steps=steps)
            target = reward[index] + discount[index] * average(later[index], following)
        first, second = critic.both(observation[index], action[index])
        error = (first - target).square().mean() + (second - target).square().mean()
        return error, {"critic": error, "value": target.mean()}

    return fit(
        critic,
        loss,
        folder=folder,
        name="critic",
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.target_decay,
        seed=seed + 11,
        progress=progress,
    )


def guidance(critic: TwinCritic, observation: Tensor, clean: Tensor) -> Tensor:
    """-E[Q(s, a_0)] / E|Q| of Diffusion-QL, whose weight then does not depend on the reward's scale."""
    value, other = critic.both(observation, clean)
    return -value.mean() / other.detach().abs().mean().clamp(min=1e-6)


@torch.no_grad()
def best_of(teacher: DiffusionTeacher, critic: TwinCritic, observation: Tensor, noise: Tensor) -> Tensor:
    """Max-Q action (B, A): of the teacher's samples from noise (B, n, A) the one with the largest Q."""
    batch, n, size = noise.shape
    repeated = observation.repeat_interleave(n, dim=0)
    actions, _ = teacher.sample(repeated, noise.reshape(batch * n, size))
    value = critic(repeated, actions).reshape(batch, n)
    return actions.reshape(batch, n, size)[torch.arange(batch), value.argmax(dim=1)]


@torch.no_grad()
def best_of_coupled(
    teacher: DiffusionTeacher,
    critic: TwinCritic,
    observation: Tensor,
    candidates: int,
    group: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Noise and max-Q actions (B, group, A) such that a map from one to the other can be learned.

    The best of n samples is no function of one Gaussian draw. At each state, ``group`` fresh draws are
    matched to as many max-Q actions by optimal transport between the teacher's own answers to the
    draws and those actions: the nearest map that carries the noise to the guided distribution.
    """
    from scipy.optimize import linear_sum_assignment

    batch, size = len(observation), teacher.action_dim
    repeated = observation.repeat_interleave(group, dim=0)
    noise = torch.randn(batch * group, size, generator=generator)
    own, _ = teacher.sample(repeated, noise)
    draws = torch.randn(batch * group, candidates, size, generator=generator)
    best = best_of(teacher, critic, repeated, draws).reshape(batch, group, size)
    cost = torch.cdist(own.reshape(batch, group, size), best)
    for row in range(batch):
        _, columns = linear_sum_assignment(cost[row].square().cpu().numpy())
        best[row] = best[row, torch.as_tensor(columns)]
    return noise.reshape(batch, group, size), best
