"""Which of several sampled chunks to drive with: one that goes on with the plan in force and is likely itself.

A policy that is drawn anew in every cycle changes its mind between two good ways. One that is fast enough to be drawn
many times a cycle can be asked for the draw that agrees with what it is doing: backward coherence of Bidirectional
Decoding (arXiv 2408.17355), here with squared distances, and with the plan's remaining actions read at the new chunk's
own times. Among many draws the one nearest to the plan tends to be an outlier, which no longer answers to the
observation, so that a draw's distance from its own nearest neighbours counts as much: in place of that paper's forward
contrast, whose stronger and weaker policies a controller does not have. Only neighbours, so that modes stay apart.
"""

from __future__ import annotations

import numpy as np

from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import Plan
from srdp_controller.engines.engine import Engine
from srdp_controller.spec import PolicySpec

DECAY = 0.95  # weight of a step, relative to the one before
NEIGHBOURS = 4  # one of so many draws is a neighbour


class Coherence:
    """Chooses among candidates without allocating arrays."""

    def __init__(self, scale: np.ndarray, horizon: int, step_ns: int) -> None:
        """``scale`` (act_dim,) makes the actions' components comparable, ``step_ns`` is between two actions."""
        self._step_ns, self._act_dim = step_ns, len(scale)
        self._target, self._later = np.zeros((2, horizon, len(scale)), np.float32)
        self._roots = (np.sqrt(DECAY ** np.arange(horizon))[:, None] / scale).astype(np.float32)
        self._resize(0)

    def _resize(self, number: int) -> None:
        self._weighted = np.zeros((number, *self._roots.shape), np.float32)
        self._flat = self._weighted.reshape(number, self._roots.size)
        self._differences = np.zeros_like(self._flat)
        self._distances, self._apart = np.zeros((2, number), np.float32)
        self._pairs = np.zeros((number, number), np.float32)

    def choose(self, chunks: np.ndarray, plan: Plan | None, now_ns: int) -> int:
        """The row of ``chunks`` (N, horizon, act_dim), due from ``now_ns`` on, to drive with; SI units.

        It has the least sum of two squared distances: from what is left of ``plan``, and on average from the quarter of
        the chunks that is nearest to it. The plan is read, between two of its actions linearly, at the times of the
        candidates' actions; its last action holds for a step. The first row where there is no plan, or none of it is
        left.
        """
        if plan is None or len(chunks) == 1:
            return 0
        horizon = len(plan.chunk)
        past, within_ns = divmod(now_ns - plan.begun_ns, self._step_ns)
        left = horizon - past
        if past < 0 or left <= 0:
            return 0
        if len(self._distances) != len(chunks):  # after a swap only
            self._resize(len(chunks))
        target = self._target[:left]
        np.copyto(target, plan.chunk[past:])
        if within_ns:
            before, later = target[:-1], self._later[: left - 1]
            np.subtract(plan.chunk[past + 1 :], before, out=later)
            np.multiply(later, np.float32(within_ns / self._step_ns), out=later)
            np.add(before, later, out=before)
        np.multiply(target, self._roots[:left], out=target)
        np.multiply(chunks, self._roots, out=self._weighted)
        shared = left * self._act_dim
        overlap = self._differences[:, :shared]
        np.subtract(self._flat[:, :shared], target.reshape(-1), out=overlap)
        np.einsum("nv,nv->n", overlap, overlap, out=self._distances)
        self._add_neighbours()
        return int(self._distances.argmin())

    def _add_neighbours(self) -> None:
        """Add to each chunk's distance its mean squared distance from its neighbours."""
        pairs, apart = self._pairs, self._apart
        neighbours = len(apart) // NEIGHBOURS
        if not neighbours:
            return
        np.einsum("nv,nv->n", self._flat, self._flat, out=apart)
        # not a matrix product: BLAS would hand it to threads that lack the loop's priority
        np.einsum("nv,mv->nm", self._flat, self._flat, out=pairs)
        np.multiply(pairs, np.float32(-2.0), out=pairs)
        np.add(pairs, apart, out=pairs)
        np.add(pairs, apart[:, None], out=pairs)
        pairs.partition(neighbours, axis=1)
        np.einsum("nm->n", pairs[:, : neighbours + 1], out=apart)  # its distance from itself is nothing
        np.divide(apart, np.float32(neighbours), out=apart)
        np.add(self._distances, apart, out=self._distances)


class Sampling:
    """What a cycle does to sample several chunks: draws their noise, runs the engine, chooses; to be measured."""

    def __init__(self, engine: Engine, spec: PolicySpec) -> None:
        step_ns = round(spec.step_s * 1e9)
        self._engine, self._noise = engine, HeldNoise(0, 0)
        self._coherence = Coherence(spec.action_normalisation()[1], spec.horizon, step_ns)
        self._plan, self._now_ns = Plan(engine.action[0].copy(), 0, 0, 0.0), step_ns // 2

    def run(self) -> None:
        """Once."""
        self._noise.fill(self._engine.noise, self._now_ns)
        self._engine.run()
        self._coherence.choose(self._engine.action, self._plan, self._now_ns)
