"""The messages of a recording by topic, and where in them episodes begin and end."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

EPISODE_TOPIC, EPISODE_TYPE = "/episode", "std_msgs/msg/Header"
ONE_CALL_NS = 1_000_000_000
BEGIN = "begin"  # what /episode says; anything else ends one


@dataclass
class Stream:
    """The messages of one topic in the order of their times [ns]; ``wrong`` says why one has no values."""

    times: list[int] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    wrong: list[str | None] = field(default_factory=list)

    def add(self, time_ns: int, stamp_ns: int | None, values: Any, wrong: str | None) -> None:
        """One message."""
        self.times.append(time_ns)
        self.stamps.append(stamp_ns)
        self.values.append(values)
        self.wrong.append(wrong)

    def sort(self) -> None:
        """Into the order of time; messages of one time stay as they came."""
        order = sorted(range(len(self.times)), key=self.times.__getitem__)
        for name in ("times", "stamps", "values", "wrong"):
            column = getattr(self, name)
            setattr(self, name, [column[place] for place in order])

    def newest(self, time_ns: int) -> int:
        """Index of the newest message at a time; -1 where none has come yet."""
        return bisect.bisect_right(self.times, time_ns) - 1


def announced(marks: Stream, last_ns: int) -> Iterator[tuple[int, int]]:
    """Episodes that ``/episode`` announces; one whose end is missing goes on to the next or to the bag's end."""
    begun: int | None = None
    for time_ns, stamp_ns, what in zip(marks.times, marks.stamps, marks.values, strict=True):
        if begun is not None:
            yield begun, time_ns
        # observations of the new episode are those measured since its stamp, as for the controller
        begun = (stamp_ns or time_ns) if what == BEGIN else None
    if begun is not None:
        yield begun, last_ns


def marked(marks: Stream, last_ns: int) -> Iterator[tuple[int, int]]:
    """Episodes while the marker's number is not zero."""
    begun: int | None = None
    for time_ns, values in zip(marks.times, marks.values, strict=True):
        on = bool(values and values[0])
        if on and begun is None:
            begun = time_ns
        elif not on and begun is not None:
            yield begun, time_ns
            begun = None
    if begun is not None:
        yield begun, last_ns


def called(begin: Sequence[int], end: Sequence[int], last_ns: int) -> Iterator[tuple[int, int]]:
    """Episodes between messages of two topics, at times [ns]; the next begin ends one whose end is missing.

    Messages of a topic within ``ONE_CALL_NS`` are one: a service's introspection leaves up to four of a call.
    """
    marks = sorted([(time_ns, True) for time_ns in _calls(begin)] + [(time_ns, False) for time_ns in _calls(end)])
    begun: int | None = None
    for time_ns, begins in marks:
        if begun is not None:
            yield begun, time_ns
        begun = time_ns if begins else None
    if begun is not None:
        yield begun, last_ns


def _calls(times: Sequence[int]) -> Iterator[int]:
    """The first time of each call."""
    before = -ONE_CALL_NS
    for time_ns in times:
        if time_ns - before >= ONE_CALL_NS:
            yield time_ns
        before = time_ns


def between_gaps(times: Sequence[int], gap_ns: int) -> Iterator[tuple[int, int]]:
    """Episodes between pauses of all sensors."""
    begun = before = times[0]
    for time_ns in times:
        if time_ns - before > gap_ns:
            yield begun, before
            begun = time_ns
        before = time_ns
    yield begun, before
