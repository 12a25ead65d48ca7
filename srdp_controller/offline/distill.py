"""Distils K-step students from a frozen teacher, strictly offline (section 4, eq. 9 and 10).

Version one: progressive distillation's matched transitions (4 a) against cached teacher chains, a
terminal loss through the student's own chain, latent alignment with a learned map (4 c) and additive
state augmentation (4 d). The transitions start the student close to the teacher's chain; the
terminal loss then takes out what its own steps add up to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srdp_controller.offline.recipe import DistillRecipe
from srdp_controller.offline.training import Progress, load_state, save_atomically, train
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher


@dataclass(frozen=True)
class TeacherQueries:
    """Cached teacher chains: states (n, obs_dim), latents (n, z) and levels (n, L, A).

    ``levels[:, i]`` is the chain at timestep ``timesteps[i]``; the first is pure noise, the last clean.
    """

    observation: Tensor
    latent: Tensor
    levels: Tensor
    timesteps: list[int]


def query_levels(teacher: SrdpTeacher, students: tuple[int, ...]) -> list[int]:
    """Timesteps at which any student needs the teacher's chain, falling."""
    from srdp_controller.policy.noise_schedule import skipped_steps

    levels = {t for steps in students for t in skipped_steps(teacher.diffusion_steps, steps)}
    return sorted(levels, reverse=True)


@torch.no_grad()
def query_teacher(
    teacher: SrdpTeacher,
    observations: np.ndarray,
    recipe: DistillRecipe,
    seed: int,
    path: Path,
    progress: Progress,
) -> TeacherQueries:
    """Run the teacher on states drawn from mu = (1 - alpha) d_D + alpha d_aug; cached at ``path``."""
    timesteps = query_levels(teacher, recipe.students)
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        data = torch.from_numpy(observations)
        index = torch.randint(0, len(data), (recipe.queries,), generator=generator)
        state = data[index]
        augmented = torch.rand(recipe.queries, 1, generator=generator) < recipe.augmented_share
        state = state + augmented * recipe.augmentation_noise * torch.randn(state.shape, generator=generator)
        noise = torch.randn(recipe.queries, teacher.head.from_action.in_features, generator=generator)
        levels, latents = [], []
        block = 4096
        for start in range(0, recipe.queries, block):
            part = slice(start, start + block)
            _, kept = teacher.sample(state[part], noise[part], keep=timesteps)
            levels.append(torch.stack(kept, dim=1))
            latents.append(teacher.trunk(state[part]))
            progress(min(start + block, recipe.queries), recipe.queries, "teacher chains")
        save_atomically({"observation": state, "latent": torch.cat(latents), "levels": torch.cat(levels)}, path)
    saved = load_state(path)
    return TeacherQueries(saved["observation"], saved["latent"], saved["levels"], timesteps)  # type: ignore[arg-type]


def distill(
    teacher: SrdpTeacher,
    steps: int,
    queries: TeacherQueries,
    recipe: DistillRecipe,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Student:
    """Train the K = ``steps`` student on cached queries; returns its EMA weights."""
    torch.manual_seed(seed + steps)
    student = Student(teacher, steps)
    columns = [queries.timesteps.index(t) for t in student.tau]
    terminal = queries.levels[:, -1]
    latent_scale = float(queries.latent.var(dim=0).mean())

    def transition_loss(observation: Tensor, levels: Tensor, condition: Tensor, k: Tensor) -> Tensor:
        """Clean action that would carry level k exactly to the teacher's level k - 1 (section 4 a)."""
        rows = torch.arange(len(observation))
        alpha = torch.tensor(student.alpha_bar)
        here, there = levels[rows, k], levels[rows, k - 1]
        signal, noise = alpha[k].sqrt()[:, None], (1.0 - alpha[k]).sqrt()[:, None]
        signal_next, noise_next = alpha[k - 1].sqrt()[:, None], (1.0 - alpha[k - 1]).sqrt()[:, None]
        target = (there - noise_next / noise * here) / (signal_next - noise_next / noise * signal)
        predicted = student.clean(here, condition, student.time_biases()[k])
        return (predicted - target).square().mean()

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        warm = steps > 1 and step < recipe.warm_share * recipe.steps
        # a chain of K evaluations on K / 2 times fewer states: every step costs about the same
        batch = recipe.batch if warm else max(1, recipe.batch // max(1, steps // 2))
        index = torch.randint(0, len(terminal), (batch,), generator=generator)
        observation = queries.observation[index]
        levels = queries.levels[index][:, columns]
        latent = student.trunk(observation)
        alignment = (student.alignment(latent) - queries.latent[index]).square().mean() / latent_scale
        condition = student.head.condition(latent)
        if warm:
            k = torch.randint(1, steps + 1, (batch,), generator=generator)
            action = recipe.transition_weight * transition_loss(observation, levels, condition, k)
        else:
            biases = student.time_biases()
            a = levels[:, -1]
            for level in range(steps, 0, -1):
                a = student.step(a, student.clean(a, condition, biases[level]), level)
            action = recipe.terminal_weight * (a - terminal[index]).square().mean()
        total = action + recipe.latent_weight * alignment
        return total, {"action": float(action.detach()), "alignment": float(alignment.detach())}

    average = train(
        student,
        loss,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed + steps,
        checkpoint=folder / f"student_k{steps}.checkpoint",
        metrics=folder / f"student_k{steps}.jsonl",
        progress=progress,
    )
    assert isinstance(average, Student)
    return average.eval()
