"""A slow policy in a thread of its own: it plans chunks while the loop goes on.

The loop hands over the newest observation only while the planner is idle, and looks at the newest
finished plan; neither side ever waits for the other. The teacher is run so, and any policy that takes
longer than a period.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from srdp_controller.control.abstention import latent_distance
from srdp_controller.engines.engine import Engine, Guided
from srdp_controller.errors import SrdpError

RECENT = 8  # plans whose longest run time says how long the next one takes


class Plan(NamedTuple):
    """A finished chunk (horizon, act_dim) [SI] and what it was made from.

    Attributes:
        chunk: the actions.
        begun_ns: when its first action was due (monotonic).
        measured_ns: when the oldest part of its observation was measured (monotonic).
        score: the policy's latent distance at that observation, NaN where there is none.
        conditioned: whether the policy was told what is executed until it is ready, and goes on from there.
        engine: what made it.
        took_ns: from its submission until it was ready.
        observation: (obs_dim,) what it was planned from; None where nobody is going to ask.
    """

    chunk: np.ndarray
    begun_ns: int
    measured_ns: int
    score: float = math.nan
    conditioned: bool = False
    engine: Engine | None = None
    took_ns: int = 0
    observation: np.ndarray | None = None

    def place(self, now_ns: int, step_ns: int) -> int:
        """Which of the chunk's actions is due at ``now_ns``; beyond its ends there is none."""
        return (now_ns - self.begun_ns) // step_ns

    def action(self, now_ns: int, step_ns: int) -> np.ndarray | None:
        """The chunk's action for ``now_ns``: what has passed is skipped; None after its end."""
        index = self.place(now_ns, step_ns)
        if 0 <= index < len(self.chunk):
            action: np.ndarray = self.chunk[index]
            return action
        return None


class Rest(NamedTuple):
    """What is left of the plan in force for one that is begun now.

    Attributes:
        chunk: (horizon, act_dim), one action for each step from now on; past the plan's end the last is repeated.
        weights: (horizon,) how much each action binds the next plan (``soft_mask``).
    """

    chunk: np.ndarray
    weights: np.ndarray


def soft_mask(committed: int, left: int, horizon: int) -> np.ndarray:
    """Real-time chunking's weights (horizon,): arXiv 2506.07339, eq. 5.

    1 for the ``committed`` actions that are executed before the next plan is ready, falling exponentially over the
    other of the ``left`` ones, 0 for what the plan in force does not reach.
    """
    step = np.arange(horizon)
    share = (left - step) / (left - committed + 1)
    falling = share * np.expm1(share) / math.expm1(1.0)
    return np.where(step < committed, 1.0, np.where(step < left, falling, 0.0)).astype(np.float32)


class Planner(Protocol):
    """What the control loop needs of somebody who plans ahead; nothing here ever blocks."""

    error: str
    plans: int

    @property
    def busy(self) -> bool:
        """Whether a plan is being made."""

    def newest(self, now_ns: int) -> Plan | None:
        """The newest finished plan."""

    def delay_ns(self) -> int:
        """How long a plan submitted now is expected to take [ns]."""

    def exchange(self, engine: Engine) -> None:
        """Plan with another engine from the next plan on."""

    def submit(
        self,
        observation: np.ndarray,
        noise: np.ndarray,
        now_ns: int,
        measured_ns: int,
        conditioned: bool = False,
        rest: Rest | None = None,
    ) -> bool:
        """Start a plan from an observation (obs_dim,); False while one is being made."""

    def expire(self, now_ns: int, deadline_ns: int) -> None:
        """Give up a plan that has been under way for longer than ``deadline_ns``."""

    def threads(self) -> list[int]:
        """The operating system's identifiers of its threads."""

    def close(self) -> None:
        """End; a plan under way is cancelled."""


class RunTimes:
    """The last few run times of an engine; the longest is what to expect."""

    def __init__(self) -> None:
        self._recent = [0] * RECENT
        self._count = 0

    def record(self, took_ns: int) -> None:
        """Add one."""
        self._recent[self._count % RECENT] = took_ns
        self._count += 1

    def longest(self) -> int:
        """Longest of the recent ones [ns]; 0 before the first."""
        return max(self._recent)


def prepare_inputs(engine: Engine, observation: np.ndarray, noise: np.ndarray, rest: Rest | None) -> bool:
    """Copy an observation (obs_dim,) and noise into an engine's buffers, and into a guided one's what is left to do.

    Returns whether the engine was told of a rest to go on from.

    A student that draws anew at every step brings more draws than the teacher takes: the first is shared.
    """
    engine.observation[0] = observation
    np.copyto(engine.noise, noise[:, : engine.noise.shape[1]])
    if not isinstance(engine, Guided):
        return False
    engine.previous[0], engine.weights[0] = (0.0, 0.0) if rest is None else rest
    return rest is not None


class PlanWorker:
    """Runs one engine in a background thread (see ``Planner``)."""

    def __init__(self, engine: Engine, name: str = "planner") -> None:
        self._engine = engine
        self._next = engine
        self._wake = os.eventfd(0)
        self._busy = False
        self._running = True
        self._begun_ns = 0
        self._measured_ns = 0
        self._conditioned = False
        self._times = RunTimes()
        self._plan: Plan | None = None
        self.error = ""
        self.plans = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a plan is being made."""
        return self._busy

    def newest(self, now_ns: int) -> Plan | None:
        """The newest finished plan."""
        return self._plan

    def delay_ns(self) -> int:
        """The longest of the recent run times [ns]; 0 before the first."""
        return self._times.longest()

    def exchange(self, engine: Engine) -> None:
        """Plan with another engine from the next plan on; a plan under way ends with the old one."""
        self._next = engine
        self.error = ""

    def submit(
        self,
        observation: np.ndarray,
        noise: np.ndarray,
        now_ns: int,
        measured_ns: int,
        conditioned: bool = False,
        rest: Rest | None = None,
    ) -> bool:
        """Start a plan from an observation (obs_dim,); False, at once, while one is being made."""
        if self._busy:
            return False
        if self._engine is not self._next:
            self._engine = self._next
            self._times = RunTimes()
        told = prepare_inputs(self._engine, observation, noise, rest)
        self._begun_ns = now_ns
        self._measured_ns = measured_ns
        self._conditioned = conditioned or told
        self._busy = True
        os.eventfd_write(self._wake, 1)
        return True

    def expire(self, now_ns: int, deadline_ns: int) -> None:
        """Cancel, between two of its steps, a plan that has been under way for longer than ``deadline_ns``."""
        if self._busy and now_ns - self._begun_ns > deadline_ns:
            self._engine.cancel()

    def threads(self) -> list[int]:
        """The operating system's identifier of its thread."""
        number = self._thread.native_id
        return [] if number is None else [number]

    def _work(self) -> None:
        while True:
            os.eventfd_read(self._wake)
            if not self._running:
                return
            engine = self._engine
            started = time.monotonic_ns()
            try:
                engine.run()
                took_ns = time.monotonic_ns() - started
                chunk = engine.action[0].copy()
                if np.isfinite(chunk).all():
                    self._times.record(took_ns)
                    score = latent_distance(engine)
                    self._plan = Plan(
                        chunk,
                        self._begun_ns,
                        self._measured_ns,
                        score,
                        self._conditioned,
                        engine,
                        took_ns,
                        engine.observation[0].copy(),
                    )
                    self.plans += 1
                    self._report(engine, "")
                else:
                    self._report(engine, f"engine {engine.name} answered NaN")
            except SrdpError as error:
                self._report(engine, str(error))
            finally:
                self._busy = False

    def _report(self, engine: Engine, error: str) -> None:
        """Say how a plan ended, unless its engine has been exchanged since: its successor must not answer for it."""
        if engine is self._next:
            self.error = error

    def close(self) -> None:
        """Stop the thread; a plan under way is cancelled."""
        self._running = False
        self._engine.cancel()
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            os.close(self._wake)


class ChunkSchedule:
    """Which action is in force while one chunk follows another (real-time chunking).

    | time           | now                    | ... | now + delay            | ...           |
    | -------------- | ---------------------- | --- | ---------------------- | ------------- |
    | what happens   | observe, begin to plan |     | the plan is ready      |               |
    | executed       | old chunk (committed)  | old | new chunk from "delay" | new           |

    A plan's first action is due when its observation was taken, so by the time that it is ready its first
    actions are past and are dropped. A policy that was trained with an action prefix is told what is done
    meanwhile (``committed``) and its plan goes on from there; any other is blended in over ``blend_ns``.
    """

    def __init__(self, step_ns: int, blend_ns: int) -> None:
        self.step_ns = step_ns
        self.blend_ns = blend_ns
        self.plan: Plan | None = None
        self._before: Plan | None = None
        self._joined_ns = 0

    def following(self, now_ns: int) -> list[np.ndarray]:
        """The actions (act_dim,) that the plan in force has for one step after ``now_ns``, two steps after, ..."""
        actions: list[np.ndarray] = []
        while self.plan is not None:
            action = self.plan.action(now_ns + (len(actions) + 1) * self.step_ns, self.step_ns)
            if action is None:
                break
            actions.append(action)
        return actions

    def join(self, plan: Plan, now_ns: int, blend: bool) -> None:
        """Put a plan in force; ``blend`` fades the one before out."""
        if blend and self.plan is not None and plan is not self.plan:
            self._before, self._joined_ns = self.plan, now_ns
        self.plan = plan

    def action(self, now_ns: int) -> np.ndarray | None:
        """The action (act_dim,) for ``now_ns``; None where no plan reaches."""
        if self.plan is None:
            return None
        action = self.plan.action(now_ns, self.step_ns)
        if self._before is None or action is None:
            return action
        share = (now_ns - self._joined_ns) / self.blend_ns if self.blend_ns else 1.0
        earlier = self._before.action(now_ns, self.step_ns) if share < 1.0 else None
        if earlier is None:
            if now_ns >= self._joined_ns:
                self._before = None
            return action
        return earlier + max(share, 0.0) * (action - earlier)

    def measured_ns(self) -> int | None:
        """When the oldest of what the last action was computed from was measured [ns]."""
        if self.plan is None:
            return None
        if self._before is None:
            return self.plan.measured_ns
        return min(self.plan.measured_ns, self._before.measured_ns)

    def committed(self, now_ns: int, delay_ns: int, most: int) -> Sequence[Sequence[float]]:
        """What is executed from ``now_ns`` until a plan begun now is ready: at most ``most`` whole actions.

        The chunk that is being planned has steps of its own, from ``now_ns`` on; each is given the action
        in force in its middle.
        """
        steps = min(most, -(-delay_ns // self.step_ns))
        return [action.tolist() for action in self._next(now_ns, steps)]

    def _next(self, now_ns: int, steps: int) -> list[np.ndarray]:
        """The plan's actions in the middles of the next ``steps`` steps from ``now_ns`` on, as far as it reaches."""
        actions: list[np.ndarray] = []
        while self.plan is not None and len(actions) < steps:
            action = self.plan.action(now_ns + len(actions) * self.step_ns + self.step_ns // 2, self.step_ns)
            if action is None:
                break
            actions.append(action)
        return actions

    def rest(self, now_ns: int, delay_ns: int) -> Rest | None:
        """What is left of the plan in force for one begun now that takes ``delay_ns``; None where nothing is."""
        if self.plan is None:
            return None
        horizon = len(self.plan.chunk)
        actions = self._next(now_ns, horizon)
        if not actions:
            return None
        left = len(actions)
        committed = min(left, -(-delay_ns // self.step_ns))
        chunk = np.stack(actions + actions[-1:] * (horizon - left))
        return Rest(chunk, soft_mask(committed, left, horizon))

    def clear(self) -> None:
        """No plan is in force any more."""
        self.plan = self._before = None
