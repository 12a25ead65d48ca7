"""A simulated robot: what it publishes, what an episode came to, and all but the physics of it.

``World`` is the protocol that evaluation, collection and the robot node drive. ``SimulatedWorld`` implements it
over three methods of a subclass (``_begin``, ``_advance``, ``_true_values``), so that every task's robot has the
same sensing, actuation, faults and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from srdp_controller.simulation.actuation import DelayedActuator, watchdog_values
from srdp_controller.simulation.scenario import Scenario, Sensor
from srdp_controller.simulation.sensors import FaultInjector, SensorStream
from srdp_controller.spec import PolicySpec

LATCHED_RATE_HZ = 20.0


@dataclass(frozen=True)
class TopicLayout:
    """What a world publishes on a topic: the message type, the fields that it fills, in order, and the frame."""

    type: str
    fields: tuple[str, ...]
    frame: str = ""
    latched: bool = False


class Measured(NamedTuple):
    """One message of a world: values in the order of its topic's fields, and when they were measured [s]."""

    topic: str
    values: Sequence[float]
    measured_s: float


FAILED = "failed"  # among the words of a metric: the episode took none of the ways that others are


@dataclass
class Outcome:
    """What an episode came to.

    Attributes:
        success: whether the task was done.
        finished: whether the episode is over.
        failed: over for good without success (nothing can be earned any more), rather than out of time.
        duration_s: its time so far.
        metrics: what is reported of it (numbers, or words that are counted over the episodes).
        details: what figures need (paths, layout); JSON-serialisable.
        judged: False where nothing says what success is; ``success`` is False then, and means nothing.
    """

    success: bool = False
    finished: bool = False
    failed: bool = False
    duration_s: float = 0.0
    metrics: dict[str, float | int | str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    judged: bool = True


class World(Protocol):
    """One simulated robot; the same in virtual time (evaluation) and in real time (the robot node).

    Attributes:
        tick_s: what ``tick`` advances the time by [s].
        time_s: of the episode.
        topics: what it publishes, by topic.
        outcome: of the episode.
    """

    tick_s: float
    time_s: float
    topics: Mapping[str, TopicLayout]
    outcome: Outcome

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode; everything random in it comes from ``rng``."""

    def tick(self) -> None:
        """Advance by ``tick_s``."""

    def send(self, command: Sequence[float]) -> None:
        """Accept a command (act_dim,) in SI units, in the order of the spec's actions, now."""

    def measurements(self) -> list[Measured]:
        """What the sensors have published since the last call, in order."""

    @property
    def truth(self) -> Any:
        """What an expert is told of the true state."""

    def snapshot(self) -> list[float]:
        """The scene as numbers from which the task's ``render`` draws it; empty where it cannot."""

    def close(self) -> None:
        """Free what it holds."""


class SimulatedWorld:
    """Base of worlds: sensing, actuation, faults and time as the scenario has them.

    A topic of which the scenario says nothing is measured exactly, in every tick; a latched one is published at
    the start of an episode and repeated at 20 Hz.
    """

    def __init__(
        self, scenario: Scenario, spec: PolicySpec, topics: Mapping[str, TopicLayout], tick_s: float, seed: int = 0
    ) -> None:
        scenario.check_topics(list(topics))
        self.scenario, self.topics, self.tick_s = scenario, topics, tick_s
        self._watchdog = watchdog_values(spec)
        self.reset(np.random.default_rng(seed))

    # --- what a subclass says -------------------------------------------------------------------

    def _begin(self, rng: np.random.Generator) -> Outcome:
        """Set the scene of a new episode up."""
        raise NotImplementedError

    def _advance(self, command: Sequence[float]) -> None:
        """Advance the physics by ``tick_s`` under the command (act_dim,) that the drives follow."""
        raise NotImplementedError

    def _true_values(self, topic: str) -> Sequence[float]:
        """What a perfect sensor behind ``topic`` would measure now."""
        raise NotImplementedError

    def _judge(self) -> None:
        """Update ``outcome`` after a tick (duration and time limit are seen to)."""

    def _message(self, topic: str, measured: np.ndarray) -> Sequence[float]:
        """A topic's fields from what its sensor measured; they are the same unless this says otherwise."""
        return measured.tolist()

    def _start_command(self) -> Sequence[float]:
        """What the drives follow until a first command arrives: the hold command, 0 where that is 'as it is'."""
        return [value or 0.0 for value in self._watchdog]

    # --- the protocol ---------------------------------------------------------------------------

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode; everything random in it comes from ``rng``."""
        self.time_s, self._ticks = 0.0, 0
        self.outcome = self._begin(rng)
        scenario = self.scenario
        self._actuator = DelayedActuator(scenario.actuation, self._watchdog, self._start_command(), rng)
        self._streams: dict[str, tuple[SensorStream, FaultInjector]] = {}
        for topic, layout in self.topics.items():
            rate = LATCHED_RATE_HZ if layout.latched else 1.0 / self.tick_s
            sensor = scenario.sensors.get(topic, Sensor(rate_hz=rate))
            stream = SensorStream(sensor, len(self._true_values(topic)), rng)
            self._streams[topic] = stream, FaultInjector(scenario.faults, topic)
        self._published: list[Measured] = []
        self._sense()

    def send(self, command: Sequence[float]) -> None:
        """Accept a command (act_dim,) now."""
        self._actuator.send(command, self.time_s)

    def tick(self) -> None:
        """Advance by ``tick_s``; an episode that is over goes on, but its outcome stands."""
        self._advance(self._actuator.in_force(self.time_s))
        self._ticks += 1
        self.time_s = self._ticks * self.tick_s
        self._sense()
        if not self.outcome.finished:
            self.outcome.duration_s = self.time_s
            limit = self.scenario.time_limit_s
            self.outcome.finished = limit is not None and self.time_s >= limit - 1e-9
            self._judge()

    def _sense(self) -> None:
        for topic, (stream, faults) in self._streams.items():
            if stream.due(self.time_s):
                stream.sample(np.array(self._true_values(topic), dtype=np.float64), self.time_s)
            newest = stream.published(self.time_s)
            for found in [] if newest is None else faults.apply(newest, self.time_s):
                self._published.append(Measured(topic, self._message(topic, found.values), found.measured_s))

    def measurements(self) -> list[Measured]:
        """What the sensors have published since the last call, in order."""
        published, self._published = self._published, []
        return published

    def snapshot(self) -> list[float]:
        """Nothing: it cannot be drawn."""
        return []

    @property
    def truth(self) -> Any:
        """What an expert is told: nothing."""
        return None

    def close(self) -> None:
        """Free what it holds."""
