"""Counters and histograms of a run, in all and by mode."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from srdp_controller.control.histogram import Histogram
from srdp_controller.control.loop import LoopState
from srdp_controller.control.supervisor import Mode


@dataclass
class ModeStatistics:
    """Histograms [ns] and overruns of the cycles in one mode; ``age`` is that of what the command came from."""

    lateness: Histogram = field(default_factory=Histogram)
    execution: Histogram = field(default_factory=Histogram)
    inference: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    age: Histogram = field(default_factory=Histogram)
    overruns: int = 0

    def clear(self) -> None:
        """Count anew."""
        self.overruns = 0
        for histogram in (self.lateness, self.execution, self.inference, self.latency, self.age):
            histogram.clear()


@dataclass
class Statistics:
    """Counters and histograms [ns] of a run; the loop's thread writes, others may read.

    ``observation_age`` is that of what is observed, ``command_age`` that of what a command came from: of a plan that
    was made ahead, it is older.
    """

    commands: int = 0
    rejected_messages: int = 0
    rejected_reason: str = ""
    engine_failures: int = 0
    alarms_between_episodes: int = 0
    inference: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    overhead: Histogram = field(default_factory=Histogram)
    observation_age: Histogram = field(default_factory=Histogram)
    command_age: Histogram = field(default_factory=Histogram)
    score: float = math.nan
    modes: dict[Mode, int] = field(default_factory=lambda: dict.fromkeys(Mode, 0))
    by_mode: dict[Mode, ModeStatistics] = field(default_factory=lambda: {mode: ModeStatistics() for mode in Mode})
    _last_mode: Mode = Mode.HOLD
    _overruns_seen: int = 0

    def restart(self) -> None:
        """Empty the histograms and count the commands anew; the other counters go on."""
        self.commands = 0
        for histogram in (self.inference, self.latency, self.overhead, self.observation_age, self.command_age):
            histogram.clear()
        for statistics in self.by_mode.values():
            statistics.clear()

    def record(
        self,
        mode: Mode,
        execution_ns: int,
        inference_ns: int,
        latency_ns: int,
        age_ns: int | None,
        loop: LoopState | None,
    ) -> None:
        """One cycle: ``latency_ns`` 0 where no message came, ``age_ns`` of what its command came from, or None.

        The overrun of the cycle before, which ``loop`` has counted since, is that cycle's mode's.
        """
        self.modes[mode] += 1
        statistics = self.by_mode[mode]
        statistics.execution.record(execution_ns)
        self.overhead.record(execution_ns - inference_ns)
        if latency_ns:
            self.latency.record(latency_ns)
            statistics.latency.record(latency_ns)
        if age_ns is not None:
            statistics.age.record(age_ns)
            self.command_age.record(age_ns)
        if inference_ns:
            statistics.inference.record(inference_ns)
        if loop is not None:
            statistics.lateness.record(loop.last_lateness_ns)
            if loop.overruns != self._overruns_seen:
                self.by_mode[self._last_mode].overruns += max(loop.overruns - self._overruns_seen, 0)
                self._overruns_seen = loop.overruns
        self._last_mode = mode
