"""``replay:BAG``: a robot without physics, which says in real time what a recording says, whatever it is commanded.

With it everything that needs a robot (the demo, the loop's benchmark, faults, soak, a rehearsal on the bench) runs for
any bundle. It has no spec of its own: a bundle brings it (``--model``, ``model_dir``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.messages import package_installed
from srdp_controller.recordings.mcap_file import bag_files
from srdp_controller.recordings.streams import Stream, announced, between_gaps
from srdp_controller.recordings.survey import TopicSurvey, looks_like_commands, read_marks, survey
from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.sensors import FaultInjector, Measurement
from srdp_controller.simulation.world import Measured, Outcome, TopicLayout
from srdp_controller.tasks.task import Task, TaskError

TICK_S = 0.005  # how finely arrivals are played again
PAUSE_S = 1.0  # of all topics, which ends an episode where nothing announces one


class ReplayTask(Task):
    """A bag, or a folder of bags, as a task.

    Args:
        path: of the MCAP file or the folder.
    """

    passive = True

    def __init__(self, path: str) -> None:
        self.name, self._path = f"replay:{path}", Path(path)

    @cached_property
    def _recorded(self) -> tuple[dict[str, TopicSurvey], Stream]:
        files = bag_files(self._path)
        topics = {
            topic: one
            for topic, one in survey(files).items()
            if one.rows and one.fields and not one.left_out and not looks_like_commands(one)
        }
        unknown = sorted({one.type for one in topics.values() if not package_installed(one.type)})
        if unknown:
            raise TaskError(f"{self.name}: message types {', '.join(unknown)} are not here; source them")
        if not topics:
            raise TaskError(f"{self.name}: no topic with numbers in it that is no command")
        return topics, read_marks(files)

    def spec(self) -> Any:
        """None: a recording does not say what a policy observes."""
        raise TaskError(f"{self.name} has no spec; name a bundle (--model BUNDLE)")

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> ReplayWorld:
        """The robot that was recorded."""
        return ReplayWorld(scenario, *self._recorded, seed)


class ReplayWorld:
    """Publishes recorded messages as they came; the scenario may spoil them (``faults``), nothing else of it counts.

    An episode is one that ``/episode`` announced, or what lies between pauses; which one is drawn. Nothing judges it.
    """

    tick_s = TICK_S

    def __init__(self, scenario: Scenario, topics: Mapping[str, TopicSurvey], marks: Stream, seed: int = 0) -> None:
        scenario.check_topics(list(topics))
        self._scenario, self._recorded = scenario, topics
        self.topics: Mapping[str, TopicLayout] = {
            topic: TopicLayout(one.type, tuple(one.fields), one.frame) for topic, one in topics.items()
        }
        first = min(one.times[0] for one in topics.values())
        last = max(one.times[-1] for one in topics.values())
        if marks.times:
            spans = [(begin * 1e-9, end * 1e-9) for begin, end in announced(marks, round(last * 1e9))]
        else:
            times = sorted(round(time_s * 1e9) for one in topics.values() for time_s in one.times)
            spans = [(begin * 1e-9, end * 1e-9) for begin, end in between_gaps(times, round(PAUSE_S * 1e9))]
        self._spans = spans or [(first, last)]
        self.reset(np.random.default_rng(seed))

    def reset(self, rng: np.random.Generator) -> None:
        """Begin one of the recorded episodes."""
        self._begin_s, self._end_s = self._spans[int(rng.integers(len(self._spans)))]
        self.time_s, self._ticks, self.outcome = 0.0, 0, Outcome(judged=False)
        self._next = {
            topic: int(np.searchsorted(one.times, self._begin_s - 1e-6)) for topic, one in self._recorded.items()
        }
        self._faults = {topic: FaultInjector(self._scenario.faults, topic) for topic in self._recorded}
        self._published: list[Measured] = []
        self._say()

    def send(self, command: Sequence[float]) -> None:
        """Nothing: what was recorded is past."""

    def tick(self) -> None:
        """Go on by ``tick_s``; after the recording's end nothing is said."""
        self._ticks += 1
        self.time_s = self._ticks * self.tick_s
        self._say()
        if not self.outcome.finished:
            self.outcome.duration_s = self.time_s
            limit = self._scenario.time_limit_s or np.inf
            self.outcome.finished = self.time_s >= min(limit, self._end_s - self._begin_s)

    def _say(self) -> None:
        now_s = self._begin_s + self.time_s + 1e-6
        for topic, one in self._recorded.items():
            place = self._next[topic]
            while place < len(one.times) and one.times[place] <= min(now_s, self._end_s + 1e-6):
                measured = Measurement(
                    np.array(one.rows[place]), one.measured[place] - self._begin_s, one.times[place] - self._begin_s
                )
                for found in self._faults[topic].apply(measured, self.time_s):
                    self._published.append(Measured(topic, found.values.tolist(), found.measured_s))
                place += 1
            self._next[topic] = place

    def measurements(self) -> list[Measured]:
        """What has been said since the last call, in order."""
        published, self._published = self._published, []
        return published

    @property
    def truth(self) -> Any:
        """What an expert is told: nothing."""
        return None

    def snapshot(self) -> list[float]:
        """Nothing: it cannot be drawn."""
        return []

    def close(self) -> None:
        """Nothing is held."""
