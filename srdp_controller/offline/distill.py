"""Distils K-step students from a frozen teacher, strictly offline (section 4, eq. 9 and 10).

``trajectory`` (the default, and measured the best; see docs/distillation.md): matched transitions against
cached teacher chains (4 a) bring the student close to the teacher's chain, a terminal loss through the
student's own chain then takes out what its own steps add up to. ``consistency`` makes predictions agree
along a path (4 b). Latent alignment (4 c) and the augmented states (4 d) go with each.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.offline.queries import TeacherQueries
from srdp_controller.offline.recipe import DistillRecipe
from srdp_controller.offline.training import HELD_OUT, fit
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import SrdpNetwork
from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.progress import Progress


def build_student(teacher: DiffusionTeacher, steps: int, recipe: DistillRecipe) -> Student:
    """An untrained student: the teacher's network and weights unless the recipe says otherwise.

    A frozen trunk is the teacher's own, also in front of a head of other sizes.

    Raises:
        SrdpError: the teacher has no trunk to share, or one whose latent is of another size than the student's.
    """
    network: SrdpNetwork | None = None
    if recipe.network is not None:
        network = SrdpTeacher(
            teacher.obs_dim,
            teacher.action_dim,
            **recipe.network.model_dump(),
            schedule="cosine",
            diffusion_steps=teacher.diffusion_steps,
            prefix=teacher.prefix if isinstance(teacher, SrdpNetwork) else None,
        )
    if recipe.trunk == "frozen" and network is not None:
        if not isinstance(teacher, SrdpNetwork):
            raise SrdpError("distill.trunk: frozen, but a teacher with a network of its own make has no trunk to share")
        if network.latent_dim != teacher.latent_dim:
            raise SrdpError(
                f"distill.network.latent is {network.latent_dim}, but the teacher's trunk, which distill.trunk: frozen "
                f"shares, ends in {teacher.latent_dim}; set it to that, or trunk: trainable"
            )
        network.trunk = teacher.trunk
    student = Student(teacher, steps, network=network, resample=recipe.method == "consistency" and steps > 1)
    if recipe.trunk == "frozen":
        student.trunk.requires_grad_(False)
    return student


def carrying_clean(here: Tensor, there: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """The clean action (B, A) with which one deterministic step goes from ``here`` exactly to ``there``.

    Both (B, A); signal rates (B,). It is the target of a step over tau(k) -> tau(k - 1) (section 4 a).
    """
    signal, noise = alpha_bar.sqrt()[:, None], (1.0 - alpha_bar).sqrt()[:, None]
    signal_next, noise_next = alpha_bar_next.sqrt()[:, None], (1.0 - alpha_bar_next).sqrt()[:, None]
    return (there - noise_next / noise * here) / (signal_next - noise_next / noise * signal)


def mean_square(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean square of errors (B, A) over the entries that are the policy's to choose."""
    return error.square().mean() if mask is None else (error.square() * mask).sum() / mask.sum().clamp(min=1.0)


def transition_loss(student: Student, levels: Tensor, context: Tensor, k: Tensor) -> Tensor:
    """Matched transitions: from the teacher's level k (levels (B, K + 1, A), k (B,)) to its level k - 1."""
    rows = torch.arange(len(levels))
    alpha = torch.tensor(student.alpha_bar)
    here, there = levels[rows, k], levels[rows, k - 1]
    target = carrying_clean(here, there, alpha[k], alpha[k - 1])
    predicted = student.predict(here, context, student.time_biases()[k])
    return mean_square(predicted - target, student.mask(context))


def consistency_loss(
    student: Student,
    average: Student,
    teacher: DiffusionTeacher,
    levels: int,
    observation: Tensor,
    context: Tensor,
    clean: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """l_cons of section 4 (b): a_t and a_t' of one path of the teacher must give one clean action.

    The path is entered at one of so many noise levels, from the teacher's ``clean`` actions (B, A); the target
    is sg(EMA), or where t' = 0 the action itself.
    """
    grid = torch.tensor(skipped_steps(teacher.diffusion_steps, min(levels, teacher.diffusion_steps)))
    n = torch.randint(1, len(grid), (len(clean),), generator=generator)
    t, t_next = grid[n], grid[n - 1]
    noisier = teacher.process.noisy(clean, torch.randn(clean.shape, generator=generator), t)
    with torch.no_grad():
        cleaner = teacher.step(noisier, teacher.context(observation), t, t_next)
        end = average.predict(cleaner, average.context(observation), average.time_features(t_next))
        end = torch.where((t_next == 0)[:, None], cleaner, end)
    predicted = student.predict(noisier, context, student.time_features(t))
    return mean_square(predicted - end, student.mask(context))


def distill(
    teacher: DiffusionTeacher,
    steps: int,
    queries: TeacherQueries,
    recipe: DistillRecipe,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Student:
    """Train the K = ``steps`` student on cached queries; returns its EMA weights, frozen.

    Its log has the action's error on queries that were held out beside that on those that it learns from.
    """
    torch.manual_seed(seed + steps)
    rows, count = torch.arange(len(queries)), min(HELD_OUT, len(queries) // 20)
    unseen, queries = queries.subset(rows[:count]), queries.subset(rows[count:])
    student = build_student(teacher, steps, recipe)
    latent_scale = float(queries.latent.var(dim=0).mean())
    # chains of which only the ends were kept (max-Q) have no transitions to learn from
    kept = set(student.tau) <= set(queries.timesteps)
    own = [queries.timesteps.index(t) for t in student.tau] if kept else []
    warm_steps = recipe.warm_share * recipe.steps if own and steps > 1 else 0
    # a chain of K evaluations on K / 2 times fewer states: every step costs about the same
    chain_batch = max(1, recipe.batch // max(1, steps // 2))

    def loss(step: int, generator: torch.Generator, average: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        through_chain = recipe.method == "trajectory" and step >= warm_steps
        batch = chain_batch if through_chain else recipe.batch
        index = torch.randint(0, len(queries), (batch,), generator=generator)
        observation, noise, clean = queries.observation[index], queries.levels[index, 0], queries.levels[index, -1]
        latent = student.latent(observation)
        context = student.context(observation) if student.timed else student.context_of_latent(latent, observation)
        if recipe.method == "consistency":
            assert isinstance(average, Student)
            action = consistency_loss(
                student, average, teacher, recipe.consistency_levels, observation, context, clean, generator
            )
            # the anchor: the stored path begins with this noise and ends at this action
            top = student.time_features(torch.tensor([teacher.diffusion_steps]))
            anchor = mean_square(student.predict(noise, context, top) - clean, student.mask(context))
            action = action + recipe.anchor_weight * anchor
        elif through_chain:
            action = (student.chain(noise, context, student.time_biases()) - clean).square().mean()
        else:
            k = torch.randint(1, steps + 1, (batch,), generator=generator)
            action = transition_loss(student, queries.levels[index][:, own], context, k)
        alignment = (student.alignment(latent) - queries.latent[index]).square().mean() / latent_scale
        parts = {"action": action, "alignment": alignment}
        return action + recipe.latent_weight * alignment, parts

    def held_out(average: Student) -> Tensor:
        chunk = average.chain(unseen.levels[:, 0], average.context(unseen.observation), average.time_biases())
        return (chunk - unseen.levels[:, -1]).square().mean()

    return fit(
        student,
        loss,
        held_out=held_out if count and not student.resample else None,  # noise of its own at every step
        folder=folder,
        name=f"student_k{steps}",
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
        seed=seed + steps,
        progress=progress,
    )
