"""Which of several sampled chunks to drive with: the one that best goes on with the plan in force.

A policy that is drawn anew in every cycle changes its mind between two good ways. One that is fast enough to be drawn
many times a cycle can be asked for the draw that agrees with what it is doing: backward coherence of Bidirectional
Decoding (arXiv 2408.17355), here with squared distances, and with the plan's remaining actions read
at the new chunk's own times.
"""

from __future__ import annotations

import numpy as np

from srdp_controller.control.planner import Plan

DECAY = 0.8  # weight of a step, relative to the one before


class Coherence:
    """Chooses among candidates without allocating arrays."""

    def __init__(self, scale: np.ndarray, horizon: int, step_ns: int) -> None:
        """``scale`` (act_dim,) makes the actions' components comparable, ``step_ns`` is between two actions."""
        self._step_ns = step_ns
        act_dim = len(scale)
        self._target, self._later = np.zeros((2, horizon, act_dim), np.float32)
        weights = DECAY ** np.arange(horizon)[:, None] / np.square(scale)
        # row n: of the first n steps, those that the plan reaches
        reach = np.arange(horizon)[None, :, None] < np.arange(horizon + 1)[:, None, None]
        self._weights = (weights * reach).reshape(horizon + 1, -1).astype(np.float32)
        self._differences = np.zeros((0, horizon, act_dim), np.float32)
        self._distances = np.zeros(0, np.float32)

    def choose(self, chunks: np.ndarray, plan: Plan | None, now_ns: int) -> int:
        """The row of ``chunks`` (N, horizon, act_dim), due from ``now_ns`` on, nearest to what is left of ``plan``; SI.

        The plan is read, between two of its actions linearly, at the times of the candidates' actions; its last action
        holds for a step. The first row where there is no plan, or none of it is left.
        """
        if plan is None or len(chunks) == 1:
            return 0
        horizon = len(plan.chunk)
        past, within_ns = divmod(now_ns - plan.begun_ns, self._step_ns)
        left = horizon - past
        if past < 0 or left <= 0:
            return 0
        if len(self._differences) != len(chunks):  # after a swap only
            self._differences = np.zeros_like(chunks)
            self._distances = np.zeros(len(chunks), np.float32)
        target = self._target[:left]
        np.copyto(target, plan.chunk[past:])
        if within_ns:
            before, later = target[:-1], self._later[: left - 1]
            np.subtract(plan.chunk[past + 1 :], before, out=later)
            np.multiply(later, np.float32(within_ns / self._step_ns), out=later)
            np.add(before, later, out=before)
        np.subtract(chunks, self._target, out=self._differences)
        np.square(self._differences, out=self._differences)
        np.dot(self._differences.reshape(len(chunks), -1), self._weights[left], out=self._distances)
        return int(self._distances.argmin())
