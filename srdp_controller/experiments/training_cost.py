"""``srdp experiment training-cost``: section 7's cost of distillation, measured.

The teacher's share is paid before training: q_T T evaluations a state (chains of T steps, one for each of
q_T noise seeds). The student's is paid at every step: a chain of K evaluations and q_K auxiliary ones.
Both are timed at several settings and compared with the count of network evaluations.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdp_controller.offline.distill import Distillation, build_student
from srdp_controller.offline.queries import query_teacher
from srdp_controller.offline.recipe import DistillRecipe, TeacherRecipe
from srdp_controller.offline.train_teacher import build_teacher
from srdp_controller.progress import ProgressPrinter, Report
from srdp_controller.tasks.task import find_task

ROUNDS = 5


def teacher_rows(report: Report) -> list[dict[str, Any]]:
    """Seconds of asking the teacher, at several q_T and T; the settings take turns."""
    spec = find_task("pushing").spec()
    states = np.random.default_rng(0).standard_normal((4096, spec.obs_dim)).astype(np.float32)
    chunks = np.zeros((4096, spec.horizon * spec.act_dim), np.float32)
    settings = [(seeds, steps) for steps in (50, 100) for seeds in (1, 2, 4)]
    best: dict[tuple[int, int], float] = {}
    for turn in range(ROUNDS):
        for seeds, steps in settings:
            teacher = build_teacher(TeacherRecipe(diffusion_steps=steps), spec).eval().requires_grad_(False)
            recipe = DistillRecipe(queries=4096 * seeds, students=(1,))
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                query_teacher(
                    teacher,
                    states,
                    recipe,
                    0,
                    Path(folder) / "q.pt",
                    lambda *_: None,
                    actions=chunks,
                    act_dim=spec.act_dim,
                )
                taken = time.perf_counter() - began
            best[seeds, steps] = min(best.get((seeds, steps), taken), taken)
        report("teacher", turn + 1, ROUNDS, "chains")
    return [
        {"q_T": seeds, "T": steps, "evaluations_per_state": seeds * steps, "seconds": best[seeds, steps]}
        for seeds, steps in settings
    ]


def student_rows(report: Report) -> list[dict[str, Any]]:
    """Milliseconds of one training step, at several K and q_K, batch constant; the settings take turns."""
    spec = find_task("pushing").spec()
    teacher = build_teacher(TeacherRecipe(), spec).eval().requires_grad_(False)
    states = np.random.default_rng(0).standard_normal((4096, spec.obs_dim)).astype(np.float32)
    chunks = np.zeros((4096, spec.horizon * spec.act_dim), np.float32)
    settings = [(steps, auxiliary) for steps in (1, 2, 4, 8) for auxiliary in (0, 2, 4)]
    losses = {}
    for steps, auxiliary in settings:
        recipe = DistillRecipe(
            queries=4096,
            students=(steps,),
            teacher_timesteps=16,
            batch=256 * max(1, steps // 2),  # the chain's batch is divided by K / 2: 256 for all
            score_weight=0.1 if auxiliary else 0.0,
            auxiliary_evaluations=max(1, auxiliary),
            warm_share=0.0,
        )
        with tempfile.TemporaryDirectory() as folder:
            queries = query_teacher(
                teacher, states, recipe, 0, Path(folder) / "q.pt", lambda *_: None, actions=chunks, act_dim=spec.act_dim
            )
        student = build_student(teacher, steps, recipe)
        losses[steps, auxiliary] = (student, Distillation(teacher, student, queries, recipe))
    best: dict[tuple[int, int], float] = {}
    generator = torch.Generator().manual_seed(0)
    for turn in range(ROUNDS):
        for setting, (student, loss) in losses.items():
            began = time.perf_counter()
            for _ in range(10):
                value, _ = loss.trajectory(0, generator, student)
                value.backward()  # type: ignore[no-untyped-call]
                student.zero_grad()
            taken = (time.perf_counter() - began) / 10
            best[setting] = min(best.get(setting, taken), taken)
        report("student", turn + 1, ROUNDS, "training steps")
    return [
        {"K": steps, "q_K": auxiliary, "evaluations": steps + auxiliary, "step_ms": best[steps, auxiliary] * 1e3}
        for steps, auxiliary in settings
    ]


def fit(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Least-squares y (n,) = base + slopes x for x (n, m), and how well it describes y."""
    design = np.column_stack([np.ones(len(x)), x])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    fitted = design @ solution
    return {
        "base": float(solution[0]),
        "slopes": solution[1:].tolist(),
        "r_squared": 1.0 - float(((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        "largest_relative_error": float(np.abs(fitted / y - 1.0).max()),
    }


def training_cost() -> dict[str, Any]:
    """Measure what asking the teacher and a training step cost, beside section 7's count of evaluations."""
    torch.set_num_threads(1)
    report = ProgressPrinter()
    teacher, student = teacher_rows(report), student_rows(report)

    def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype=float)

    for row in teacher:
        print(
            f"q_T {row['q_T']}  T {row['T']:>3}: {row['evaluations_per_state']:>3} evaluations, {row['seconds']:.2f} s"
        )
    for row in student:
        print(f"K {row['K']}  q_K {row['q_K']}: {row['evaluations']:>2} evaluations, {row['step_ms']:.2f} ms a step")
    # two slopes, for an auxiliary evaluation asks the teacher too and costs more than one of the chain
    counts = np.column_stack([column(student, "K"), column(student, "q_K")])
    result = {
        "seed": 0,
        "teacher": teacher,
        "teacher_fit": fit(column(teacher, "evaluations_per_state"), column(teacher, "seconds")),
        "student": student,
        "student_fit": fit(counts, column(student, "step_ms")),
    }
    print("teacher", result["teacher_fit"], "student", result["student_fit"], sep="\n")
    return result
