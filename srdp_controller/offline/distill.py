"""Distils K-step students from a frozen teacher, strictly offline (section 4, eq. 9 and 10).

``trajectory`` (the default, and measured the best; see docs/distillation.md): matched transitions against
cached teacher chains (4 a) bring the student close to the teacher's chain, a terminal loss through the
student's own chain then takes out what its own steps add up to. ``progressive`` halves the steps stage
by stage (4 a); ``consistency`` makes predictions agree along a path (4 b). Latent alignment (4 c),
score and feature matching and the augmented states (4 d) go with each.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.offline.losses import (
    auxiliary_timesteps,
    carrying_clean,
    consistency_loss,
    feature_loss,
    implied_noise,
    mean_square,
    score_loss,
    transition_loss,
)
from srdp_controller.offline.queries import TeacherQueries
from srdp_controller.offline.recipe import DistillRecipe
from srdp_controller.offline.training import Loss, load_state, save_atomically, train
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import SrdpNetwork
from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.policy.student import Student, fresh_trunk
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress


def build_student(teacher: DiffusionTeacher, steps: int, recipe: DistillRecipe) -> Student:
    """An untrained student: the teacher's network and weights unless the recipe says otherwise."""
    network: SrdpNetwork | None = None
    if recipe.network is not None:
        size = recipe.network
        network = SrdpTeacher(
            teacher.obs_dim,
            teacher.action_dim,
            size.trunk,
            size.latent,
            size.head,
            size.time_features,
            "cosine",
            teacher.diffusion_steps,
            prefix=teacher.prefix if isinstance(teacher, SrdpNetwork) else None,
        )
    elif recipe.trunk_init == "fresh" and isinstance(teacher, SrdpNetwork):
        network = copy.deepcopy(teacher)
        fresh_trunk(network)
    student = Student(
        teacher,
        steps,
        network=network,
        alignment=recipe.alignment,
        resample=recipe.method == "consistency" and steps > 1,
    )
    if recipe.trunk == "frozen":
        student.trunk.requires_grad_(False)
    return student


def auxiliary_positions(
    teacher: DiffusionTeacher, student: Student, timesteps: list[int], recipe: DistillRecipe
) -> list[int]:
    """Positions among the cached ``timesteps`` at which scores and features can be matched (J of eq. 10).

    Raises:
        SrdpError: the recipe asks for such supervision, and the timesteps or the networks cannot give it.
    """
    positions = auxiliary_timesteps(student, timesteps)
    if (recipe.score_weight or recipe.feature_weight) and not positions:
        raise SrdpError(
            f"distill: score and feature matching at K = {student.steps} need teacher timesteps between the "
            "student's own: set distill.teacher_timesteps to 17, say"
        )
    if recipe.feature_weight and not (
        isinstance(teacher, SrdpNetwork)
        and teacher.head.from_latent.out_features == student.head.from_latent.out_features
    ):
        raise SrdpError("distill.feature_weight: teacher and student need heads of the same width; set it to 0")
    return positions


class Distillation:
    """One student's loss: what every method shares, and the method's own action loss."""

    def __init__(
        self,
        teacher: DiffusionTeacher,
        student: Student,
        queries: TeacherQueries,
        recipe: DistillRecipe,
        earlier: Student | None = None,
    ) -> None:
        self.teacher, self.student, self.queries, self.recipe = teacher, student, queries, recipe
        self.earlier = earlier
        self.latent_scale = float(queries.latent.var(dim=0).mean())
        self.auxiliary = auxiliary_positions(teacher, student, queries.timesteps, recipe)
        self._own = (
            [queries.timesteps.index(t) for t in student.tau] if set(student.tau) <= set(queries.timesteps) else None
        )

    def _draw(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, len(self.queries), (batch,), generator=generator)

    def _context(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Context and h(z_K) from one evaluation of the trunk."""
        student = self.student
        if student.timed:
            return student.context(observation), student.aligned(observation)
        latent = student.trunk(observation)
        return student.context_of_latent(latent, observation), student.alignment(latent)

    def _common(
        self, index: Tensor, observation: Tensor, context: Tensor, aligned: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Latent alignment, score and feature matching: everything but the action loss."""
        recipe, queries = self.recipe, self.queries
        alignment = (aligned - queries.latent[index]).square().mean() / self.latent_scale
        total = recipe.latent_weight * alignment
        parts = {"alignment": float(alignment.detach())}
        if recipe.score_weight or recipe.feature_weight:
            score = feature = torch.zeros(())
            for _ in range(recipe.auxiliary_evaluations):
                chosen = torch.tensor(self.auxiliary)[
                    torch.randint(0, len(self.auxiliary), (len(index),), generator=generator)
                ]
                a, t = queries.levels[index, chosen], torch.tensor(queries.timesteps)[chosen]
                if recipe.score_weight:
                    score = score + score_loss(self.student, self.teacher, observation, context, a, t)
                if recipe.feature_weight:
                    assert isinstance(self.teacher, SrdpNetwork)
                    feature = feature + feature_loss(self.student, self.teacher, observation, context, a, t)
            total = (
                total + (recipe.score_weight * score + recipe.feature_weight * feature) / recipe.auxiliary_evaluations
            )
            parts |= {"score": float(score.detach()), "features": float(feature.detach())}
        return total, parts

    def _finish(self, action: Tensor, common: Tensor, parts: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        return action + common, {"action": float(action.detach()), **parts}

    def _chain_batch(self) -> int:
        # a chain of K evaluations on K / 2 times fewer states: every step costs about the same
        return max(1, self.recipe.batch // max(1, self.student.steps // 2))

    def trajectory(self, step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
        """Transitions first, then the terminal action through the student's own chain."""
        recipe, student, queries = self.recipe, self.student, self.queries
        # chains of which only the ends were kept have no transitions to learn from
        warm = self._own is not None and student.steps > 1 and step < recipe.warm_share * recipe.steps
        batch = recipe.batch if warm else self._chain_batch()
        index = self._draw(batch, generator)
        observation = queries.observation[index]
        context, aligned = self._context(observation)
        if warm:
            levels = queries.levels[index][:, self._own]
            k = torch.randint(1, student.steps + 1, (batch,), generator=generator)
            action = recipe.transition_weight * transition_loss(student, levels, context, k)
        else:
            a = student.chain(queries.levels[index, 0], context, student.time_biases())
            action = recipe.terminal_weight * (a - queries.levels[index, -1]).square().mean()
        common, parts = self._common(index, observation, context, aligned, generator)
        return self._finish(action, common, parts)

    def progressive(self, step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
        """One step of this student for two of the ``earlier`` one (at first, of the teacher's chain)."""
        recipe, student, queries = self.recipe, self.student, self.queries
        index = self._draw(recipe.batch, generator)
        observation = queries.observation[index]
        context, aligned = self._context(observation)
        k = torch.randint(1, student.steps + 1, (recipe.batch,), generator=generator)
        levels = torch.tensor(student.tau)
        alpha = torch.tensor(student.alpha_bar)
        clean, noise = queries.levels[index, -1], torch.randn(queries.levels[index, 0].shape, generator=generator)
        # at the top the paths' own start (pure noise), below it noised actions
        here = self.teacher.process.noisy(clean, noise, levels[k])
        here = torch.where((k == student.steps)[:, None], queries.levels[index, 0], here)
        there = self._two_steps(observation, here, k)
        target = carrying_clean(here, there, alpha[k], alpha[k - 1])
        predicted = student.predict(here, context, student.time_biases()[k])
        # the loss of epsilon* (section 4 a) and that of the clean action, whichever weighs more
        weight = (alpha[k] / (1.0 - alpha[k])).clamp(1.0, 20.0)[:, None]
        action = recipe.transition_weight * mean_square(weight.sqrt() * (predicted - target), student.mask(context))
        common, parts = self._common(index, observation, context, aligned, generator)
        return self._finish(action, common, parts)

    @torch.no_grad()
    def _two_steps(self, observation: Tensor, here: Tensor, k: Tensor) -> Tensor:
        """Where two steps of the earlier sampler, at first of the teacher, lead (B, A) from levels k (B,)."""
        student, earlier, teacher = self.student, self.earlier, self.teacher
        tau = torch.tensor(student.tau)
        if earlier is None:
            middle = (tau[k] + tau[k - 1]) // 2
            context = teacher.context(observation)
            return teacher.step(teacher.step(here, context, tau[k], middle), context, middle, tau[k - 1])
        context, biases = earlier.context(observation), earlier.time_biases()
        alpha = torch.tensor(earlier.alpha_bar)
        position = torch.tensor([earlier.tau.index(t) for t in student.tau])
        a = here
        for offset in range(2):
            fine = position[k] - offset
            clean = earlier.predict(a, context, biases[fine])
            epsilon = implied_noise(a, clean, alpha[fine])
            then = alpha[fine - 1][:, None]
            a = torch.where((fine == 1)[:, None], clean, then.sqrt() * clean + (1.0 - then).sqrt() * epsilon)
        return a

    def consistency(self, step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, float]]:
        """Predictions agree along the teacher's path, and are anchored to its end."""
        recipe, student, queries, teacher = self.recipe, self.student, self.queries, self.teacher
        assert isinstance(average, Student)
        index = self._draw(recipe.batch, generator)
        observation = queries.observation[index]
        context, aligned = self._context(observation)
        levels = min(recipe.consistency_levels, teacher.diffusion_steps)
        grid = torch.tensor(skipped_steps(teacher.diffusion_steps, levels))
        n = torch.randint(1, len(grid), (recipe.batch,), generator=generator)
        noise, clean = queries.levels[index, 0], queries.levels[index, -1]
        noisier = teacher.process.noisy(clean, torch.randn(noise.shape, generator=generator), grid[n])
        with torch.no_grad():
            cleaner = teacher.step(noisier, teacher.context(observation), grid[n], grid[n - 1])
        agree = consistency_loss(student, average, observation, context, noisier, cleaner, grid[n], grid[n - 1])
        # the anchor: the stored path begins with this noise and ends at this action
        top = torch.full((recipe.batch,), teacher.diffusion_steps)
        anchor = mean_square(student.predict(noise, context, student.time_features(top)) - clean, student.mask(context))
        common, parts = self._common(index, observation, context, aligned, generator)
        return self._finish(agree + recipe.anchor_weight * anchor, common, {**parts, "anchor": float(anchor.detach())})


def progressive_stages(diffusion_steps: int, steps: int) -> list[int]:
    """Step counts of section 4 (a)'s halving stages that end at ``steps``: ..., 4 K, 2 K, K, all at most T / 2."""
    stages = [steps]
    while stages[-1] * 2 <= diffusion_steps // 2:
        stages.append(stages[-1] * 2)
    return stages[::-1]


def _fit(
    losses: Distillation, action: Loss, steps: int, seed: int, name: str, folder: Path, report: Progress
) -> Student:
    recipe = losses.recipe
    average = train(
        losses.student,
        action,
        steps=steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed,
        checkpoint=folder / f"{name}.checkpoint",
        metrics=folder / f"{name}.jsonl",
        progress=report,
    )
    assert isinstance(average, Student)
    return average.eval()


def _distill_progressively(
    teacher: DiffusionTeacher,
    steps: int,
    queries: TeacherQueries,
    recipe: DistillRecipe,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Student:
    """Stages of half the steps each; a stage that another student went through already is read back."""
    earlier: Student | None = None
    stages = progressive_stages(teacher.diffusion_steps, steps)
    for number, stage in enumerate(stages):
        torch.manual_seed(seed + stage)
        student = build_student(teacher, stage, recipe)
        path = folder / f"progressive_{stage}.pt"
        if path.exists():
            student.load_state_dict(load_state(path))  # type: ignore[arg-type]
        else:
            if earlier is not None:
                student.load_state_dict(earlier.state_dict())
            losses = Distillation(teacher, student, queries, recipe, earlier)
            last = stage == steps
            name = f"student_k{steps}" if last else f"progressive_{stage}"
            student = _fit(losses, losses.progressive, recipe.steps // 2, seed + stage, name, folder, progress)
            save_atomically(student.state_dict(), path)
            if not last:
                (folder / f"{name}.checkpoint").unlink(missing_ok=True)
        progress(number + 1, len(stages), f"{stage}-step stage done")
        earlier = student.eval().requires_grad_(False)
    assert earlier is not None
    return earlier


def distill(
    teacher: DiffusionTeacher,
    steps: int,
    queries: TeacherQueries,
    recipe: DistillRecipe,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Student:
    """Train the K = ``steps`` student on cached queries; returns its EMA weights.

    Raises:
        SrdpError: the recipe asks for supervision that the cached queries or the networks cannot give.
    """
    if recipe.method == "progressive":
        return _distill_progressively(teacher, steps, queries, recipe, seed, folder, progress)
    torch.manual_seed(seed + steps)
    losses = Distillation(teacher, build_student(teacher, steps, recipe), queries, recipe)
    action = losses.consistency if recipe.method == "consistency" else losses.trajectory
    return _fit(losses, action, recipe.steps, seed + steps, f"student_k{steps}", folder, progress)
