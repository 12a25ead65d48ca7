"""Messages as bytes: what the loop reads without converting whole messages to Python objects.

rclpy converts every field of a message, most of which never change, which for a JointState of seven joints can take as
long as everything else in a cycle. Here the library converts the first message and is asked where its numbers lie;
messages whose other bytes are the same are then read in place. Nothing is assumed of the encoding: a layout is used
only once it has given what the library gives, and whatever differs goes to the library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from srdp_controller.ros.direct_take import TWO_TURNS_RAD, Extract

Check = Callable[[Any], str | None]
Reading = tuple[int, Sequence[float], str | None]  # stamp [ns], values, what is wrong
STAMP = struct.Struct("=iI")  # builtin_interfaces/Time: the first field of every header
STAMP_AT = 4  # behind the encapsulation's own four bytes
HEADER = STAMP_AT + STAMP.size
DOUBLE = struct.calcsize("=d")
SENTINELS = [1.0 + number * 2.0**-20 for number in range(1, 257)]
LESSONS = 8  # layouts that are learned at most: senders that differ in every message are left to the library


def _mark(message: Any) -> list[list[float]]:
    """Put a number of its own into every place that an observation may be read from; the runs, as they are encoded."""
    if hasattr(message, "position"):
        many = len(message.position)
        marks = [SENTINELS[:many], SENTINELS[many : many + len(message.velocity)]]
        message.position, message.velocity = marks
        return marks
    place, turn = message.pose.position, message.pose.orientation
    place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = SENTINELS[:7]
    return [SENTINELS[:7]]


class MessageReader:
    """What an observation needs of a message: its stamp, its values and what is wrong with it."""

    def __init__(self, extract: Extract, check: Check) -> None:
        self._extract, self._check = extract, check

    def read(self, message: Any) -> Reading:
        """Stamp [ns], values in the fields' order (empty when something is wrong), and what is wrong."""
        stamp = message.header.stamp
        wrong = self._check(message)
        values = self._extract(message) if wrong is None else ()
        return stamp.sec * 1_000_000_000 + stamp.nanosec, values, wrong


class _Layout:
    """Where a message's numbers lie: whatever is not a number must be as in the message it was learned from."""

    def __init__(self, message_type: Any, raw: bytes, extract: Extract) -> None:
        """Learn from a message that the library accepts.

        Raises:
            LookupError: nothing to read in it, or in another encoding than the library writes here.
            ValueError: its numbers are not found in the library's bytes.
        """
        marked = deserialize_message(raw, message_type)
        runs = [run for run in _mark(marked) if run]
        bytes_marked = serialize_message(marked)
        if bytes_marked[:2] != raw[:2]:
            raise LookupError("another encoding")
        wanted: list[float] = list(extract(marked))
        known: list[float] = []
        spans: list[tuple[int, int]] = []
        for run in runs:
            if known and set(wanted) <= set(known):
                break
            packed = struct.pack(f"={len(run)}d", *run)
            start = bytes_marked.index(packed, spans[-1][1] if spans else HEADER)
            spans.append((start, start + len(packed)))
            known += run
        self._picks = [known.index(value) for value in wanted]
        self._numbers = [(struct.Struct(f"={(end - start) // DOUBLE}d").unpack_from, start) for start, end in spans]
        ends = [HEADER, *(end for _, end in spans)]
        fixed = [(0, STAMP_AT), *((begin, start) for begin, (start, _) in zip(ends, spans, strict=False))]
        # those that came, not the library's: what pads them to an alignment is whatever the sender left there
        self._fixed = [(begin, end, raw[begin:end]) for begin, end in fixed]
        self._size = len(raw)

    def values(self, raw: bytes) -> list[float] | None:
        """The values, or None where the message is laid out in another way."""
        if len(raw) != self._size:
            return None
        for begin, end, expected in self._fixed:
            if raw[begin:end] != expected:
                return None
        unpack, start = self._numbers[0]
        numbers = unpack(raw, start)
        for unpack, start in self._numbers[1:]:
            numbers += unpack(raw, start)
        return [numbers[pick] for pick in self._picks]


class SerializedReader:
    """``MessageReader`` for messages that come as bytes."""

    def __init__(self, message_type: Any, extract: Extract, reader: MessageReader) -> None:
        self._type, self._extract, self._reader = message_type, extract, reader
        self._layout: _Layout | None = None
        self._lessons = LESSONS

    def read(self, raw: bytes) -> Reading:
        """As ``MessageReader.read``; bytes that are no message of the type are wrong, not an exception."""
        layout = self._layout
        if layout is not None:
            values = layout.values(raw)
            # beyond two turns the library's message is checked for the unit
            if values is not None and not max(values) > TWO_TURNS_RAD and not min(values) < -TWO_TURNS_RAD:
                seconds, nanoseconds = STAMP.unpack_from(raw, STAMP_AT)
                return seconds * 1_000_000_000 + nanoseconds, values, None
        try:
            message = deserialize_message(raw, self._type)
        except Exception as error:  # rclpy raises what its middleware raises
            return 0, (), f"its {len(raw)} bytes are no {self._type.__name__} ({type(error).__name__})"
        reading = self._reader.read(message)
        if reading[2] is None and self._lessons:
            self._lessons -= 1
            self._learn(raw, reading)
        return reading

    def _learn(self, raw: bytes, reading: Reading) -> None:
        try:
            layout = _Layout(self._type, raw, self._extract)
        except (LookupError, ValueError):
            return
        seconds, nanoseconds = STAMP.unpack_from(raw, STAMP_AT)
        same_stamp = seconds * 1_000_000_000 + nanoseconds == reading[0]
        values = layout.values(raw)
        if same_stamp and values is not None and _same(values, reading[1]):
            self._layout = layout


def _same(left: Iterable[float], right: Iterable[float]) -> bool:
    """Equal, where one that is not a number equals itself."""
    return [struct.pack("=d", value) for value in left] == [struct.pack("=d", value) for value in right]
