"""How long a recipe's training will take on this machine, and how large its bundle will be: measured on a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from srdp_controller.offline.distill import build_student
from srdp_controller.offline.train_teacher import build_teacher

if TYPE_CHECKING:
    from srdp_controller.offline.pipeline import Pipeline

TRIED = 5  # steps
ASKED = 256  # states that the teacher is asked at, to time it


def expected(pipeline: Pipeline) -> dict[str, Any]:
    """``parameters`` by network, ``seconds`` by stage (on one core each), and the bundle's ``bytes``."""
    recipe, spec = pipeline.recipe, pipeline.task_spec
    own = pipeline.own_teacher
    teacher = own if own is not None else build_teacher(recipe.teacher, spec)
    batch, threads = recipe.teacher.batch, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        state, chunk = torch.randn(batch, spec.obs_dim), torch.randn(batch, spec.horizon * spec.act_dim)
        seconds: dict[str, float] = {}
        if own is None:
            generator = torch.Generator().manual_seed(0)
            fresh = build_teacher(recipe.teacher, spec)
            one = _timed(fresh, lambda network: network.loss(state, chunk, 0.1, generator)[0])
            seconds["teacher"] = one * recipe.teacher.steps
        queries, evaluations = recipe.queries.queries, recipe.distill.chain_steps or teacher.diffusion_steps
        asked, noise = torch.randn(ASKED, spec.obs_dim), torch.randn(ASKED, teacher.action_dim)
        with torch.no_grad():
            teacher.sample(asked, noise, 1)
            begun = time.monotonic()
            teacher.sample(asked, noise, 2)
        seconds["queries"] = (time.monotonic() - begun) / 2 * evaluations * queries / ASKED
        students = {count: build_student(teacher, count, recipe.distill) for count in recipe.distill.students}
        state, chunk = (torch.randn(recipe.distill.batch, size) for size in (spec.obs_dim, teacher.action_dim))
        for count, student in students.items():
            one = _timed(
                student,
                lambda network: network.chain(chunk, network.context(state), network.time_biases()).square().mean(),
            )
            seconds[f"student_k{count}"] = one / max(1, count // 2) * recipe.distill.steps
    finally:
        torch.set_num_threads(threads)
    width = 2 if recipe.teacher.storage == "float16" else 4
    parameters = {"teacher": _size(teacher), **{f"student_k{count}": _size(one) for count, one in students.items()}}
    size = sum(number * (width if name == "teacher" else 4) for name, number in parameters.items())
    return {"parameters": parameters, "seconds": seconds, "bytes": size}


def _size(network: nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


def _timed(network: Any, loss: Callable[[Any], torch.Tensor]) -> float:
    """Seconds of a training step, the least of a few."""
    optimiser, least = torch.optim.Adam(network.parameters()), float("inf")
    for _ in range(TRIED):
        begun = time.monotonic()
        optimiser.zero_grad()
        loss(network).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        least = min(least, time.monotonic() - begun)
    return least


def told(result: dict[str, Any]) -> str:
    """What is expected, for a reader."""
    parts = [f"{name} {seconds / 60:.1f} min" for name, seconds in result["seconds"].items()]
    size = result["bytes"] / 1e6
    return f"nothing is wrong; expected on a core of this machine: {', '.join(parts)}; bundle {size:.1f} MB"
