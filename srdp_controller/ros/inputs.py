"""What the loop takes from the topics itself: no executor, no callback, no waiting, no message it need not convert.

The executor never sees these subscriptions (their callback group is never ready), so no other thread holds the
interpreter lock to convert their messages while a cycle is due. rclpy converts every field of a message, most of which
never change, which for a JointState of seven joints can take as long as everything else in a cycle. Here the library
converts the first message and is asked where its numbers lie; messages whose other bytes are the same are then read in
place. Nothing is assumed of the encoding: a layout is used only once it has given what the library gives, and whatever
differs goes to the library.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from srdp_controller.control.cycle import Cycle
from srdp_controller.errors import cause_of
from srdp_controller.messages import TWO_TURNS_RAD, Extractor
from srdp_controller.observation import ObservationAssembler, TopicPlan
from srdp_controller.spec import Qos

Reading = tuple[int | None, Sequence[float], str | None]  # stamp [ns] (None: has none), values, what is wrong
FUTURE_TOLERANCE_NS = 5_000_000  # clocks of two machines differ that much at most
CREDIBLE_NS = 10_000_000_000  # a stamp further from now than this is of another clock
EPISODE_TOPIC = "/episode"
BEGIN, END = "begin", "end"
STAMP = struct.Struct("=iI")  # builtin_interfaces/Time: the first field of every header
STAMP_AT = 4  # behind the encapsulation's own four bytes
SENTINELS = [1.0 + number * 2.0**-20 for number in range(1, 257)]  # exact in single precision too
LAYOUTS_LEARNED = 8  # at most: a sender that differs in every message is left to the library


class NeverReady(CallbackGroup):
    """A callback group that no executor ever serves."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


LATEST = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
LATCHED = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)


def profiles(qos: Qos) -> list[QoSProfile]:
    """The subscriptions that a source needs: one, or two where ``either`` durability is to be heard.

    A transient-local subscription hears no ordinary publisher, and a volatile one nothing that was said before it came.
    What was said before reaches only a reliable subscription.
    """
    volatile = LATEST if qos.reliability == "best_effort" else RELIABLE
    return {"volatile": [volatile], "transient_local": [LATCHED], "either": [LATCHED, volatile]}[qos.durability]


class Subscription(Protocol):
    """A topic's newest message, on demand."""

    handle: Any

    def __init__(self, node: Node, message_type: Any, topic: str, qos: QoSProfile = LATEST) -> None: ...

    def take(self) -> tuple[Any, int] | None:
        """The newest message and when the middleware received it (system clock, ns), or None."""

    def close(self) -> None:
        """Leave the topic."""


class DirectSubscription:
    """Newest message of a topic, taken on demand by the thread that needs it."""

    _serialized = False

    def __init__(self, node: Node, message_type: Any, topic: str, qos: QoSProfile = LATEST) -> None:
        self._type = message_type
        self.handle = node.create_subscription(
            message_type, topic, lambda message: None, qos, callback_group=NeverReady()
        )
        # an executor that is driven by events takes messages without asking the group: it must not know of this one
        node._subscriptions.remove(self.handle)
        self._taking = self.handle.handle

    def close(self) -> None:
        """Leave the topic."""
        self.handle.destroy()

    def take(self) -> tuple[Any, int] | None:
        """The newest message and when the middleware received it (system clock, ns), or None."""
        taken = self._taking.take_message(self._type, self._serialized)  # its queue holds one message
        return None if taken is None else (taken[0], taken[1]["received_timestamp"])


class SerializedSubscription(DirectSubscription):
    """As ``DirectSubscription``, but its messages stay the bytes that came."""

    _serialized = True


class MessageReader:
    """What an observation needs of a message: its stamp, its values and what is wrong with it."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor

    def read(self, message: Any) -> Reading:
        """Stamp [ns], values in the fields' order (empty when something is wrong), and what is wrong."""
        extractor = self._extractor
        wrong = extractor.check(message)
        return extractor.stamp_ns(message), extractor.values(message) if wrong is None else (), wrong


def _mark(message: Any, sentinels: Iterator[float]) -> Iterator[bytes]:
    """Put a number of its own into every floating-point place of a message; each as it is encoded, in order.

    Raises:
        RuntimeError: there are more places than sentinels.
    """
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        is_array = not isinstance(value, str | bytes | float | int) and hasattr(value, "__len__")
        if "/" in kind:
            for inner in value if is_array else [value]:
                yield from _mark(inner, sentinels)
        elif "double" in kind or "float" in kind:
            form = "=d" if "double" in kind else "=f"
            numbers = [next(sentinels) for _ in value] if is_array else [next(sentinels)]
            setattr(message, name, numbers if is_array else numbers[0])
            for number in numbers:
                yield struct.pack(form, number)


def _ignored(message: Any, raw: bytes, place: int, value: int) -> bool:
    """Whether the library ignores a byte: padding, in which senders leave anything."""
    other = bytearray(raw)
    other[place] = value
    try:
        return bool(deserialize_message(bytes(other), type(message)) == message)
    except Exception:  # rclpy raises what its middleware raises
        return False


def _between(begin: int, end: int, places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The parts of begin to end that these places, in order, leave."""
    for place in places:
        if begin <= place < end:
            yield begin, place
            begin = place + 1
    yield begin, end


class _Layout:
    """Where a message's numbers lie: whatever is not a number must be as in the message it was learned from."""

    _size: int
    _fixed: list[tuple[int, int, bytes]]  # begin, end, what stands there

    def __init__(self, message_type: Any, raw: bytes, extractor: Extractor, before: _Layout | None) -> None:
        """Learn from a message that the library accepts, and that the layout ``before`` could not read.

        Raises:
            LookupError: nothing to read in it, or in another encoding than the library writes here.
            ValueError: its numbers are not found in the library's bytes.
            RuntimeError: it has more numbers than are marked.
        """
        if extractor.stamped and next(iter(message_type.get_fields_and_field_types())) != "header":
            raise LookupError("its stamp stands elsewhere")
        marked = deserialize_message(raw, message_type)
        packed = list(_mark(marked, iter(SENTINELS)))
        written = serialize_message(marked)
        if written[:2] != raw[:2]:
            raise LookupError("another encoding")
        self._stamped = extractor.stamped
        fixed = [(0, STAMP_AT)]
        runs: list[tuple[int, int, str]] = []  # begin, count, form: numbers that follow each other
        order: list[float] = []
        end = STAMP_AT + (STAMP.size if self._stamped else 0)
        for number in packed:
            start = written.index(number, end)
            form = "d" if len(number) == 8 else "f"
            if runs and start == end and runs[-1][2] == form:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, form)
            else:
                fixed.append((end, start))
                runs.append((start, 1, form))
            end = start + len(number)
            order.append(struct.unpack(f"={form}", number)[0])
        fixed.append((end, len(raw)))
        self._padding: list[int] = []
        if before is not None and before._size == len(raw) == len(written):
            tried = {place: written[place] ^ 1 for place in before._padding}
            for start, stop, expected in before._fixed:
                for place in range(start, stop):
                    if raw[place] != expected[place - start]:
                        value = raw[place]
                        tried[place] = value if value != written[place] else expected[place - start]
            self._padding = sorted(place for place, value in tried.items() if _ignored(marked, written, place, value))
            fixed = [part for start, stop in fixed for part in _between(start, stop, self._padding)]
        self._fixed = [(start, stop, raw[start:stop]) for start, stop in fixed if start < stop]
        wanted = extractor.values(marked)
        places = [order.index(value) for value in wanted]
        self._numbers: list[tuple[Callable[..., tuple[float, ...]], int]] = []
        known: list[int] = []
        first = 0
        for start, count, form in runs:
            if any(first <= place < first + count for place in places):
                self._numbers.append((struct.Struct(f"={count}{form}").unpack_from, start))
                known += range(first, first + count)
            first += count
        if not self._numbers:
            raise LookupError("nothing to read")
        self._picks = [known.index(place) for place in places]
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

    def __init__(self, extractor: Extractor) -> None:
        self._extractor, self._reader = extractor, MessageReader(extractor)
        self._type = extractor.type
        self._layout: _Layout | None = None
        self._to_learn = LAYOUTS_LEARNED
        self._stamped = extractor.stamped
        # beyond two turns the library's message is checked for the unit
        self._most = TWO_TURNS_RAD if extractor.chain_joints else math.inf

    def read(self, raw: bytes) -> Reading:
        """As ``MessageReader.read``; bytes that are no message of the type are wrong, not an exception."""
        layout = self._layout
        if layout is not None:
            values = layout.values(raw)
            if values is not None and not max(values) > self._most and not min(values) < -self._most:
                return _stamp_ns(raw) if self._stamped else None, values, None
        try:
            message = deserialize_message(raw, self._type)
        except Exception as error:  # rclpy raises what its middleware raises
            return 0, (), f"its {len(raw)} bytes are no {self._type.__name__} ({type(error).__name__})"
        reading = self._reader.read(message)
        if reading[2] is None and self._to_learn:
            self._to_learn -= 1
            self._learn(raw, reading)
        return reading

    def _learn(self, raw: bytes, reading: Reading) -> None:
        try:
            layout = _Layout(self._type, raw, self._extractor, self._layout)
        except (LookupError, ValueError, RuntimeError):
            return
        same_stamp = not self._stamped or _stamp_ns(raw) == reading[0]
        values = layout.values(raw)
        if same_stamp and values is not None and _same(values, reading[1]):
            self._layout = layout


def _stamp_ns(raw: bytes) -> int:
    seconds, nanoseconds = STAMP.unpack_from(raw, STAMP_AT)
    return int(seconds * 1_000_000_000 + nanoseconds)


def _same(left: Iterable[float], right: Iterable[float]) -> bool:
    """Equal, where one that is not a number equals itself."""
    return [struct.pack("=d", value) for value in left] == [struct.pack("=d", value) for value in right]


class _Input:
    """One observation topic: its subscriptions and what reads its messages."""

    def __init__(self, node: Node, plan: TopicPlan, serialized: bool, subscription: type[Subscription]) -> None:
        extractor = Extractor(plan.type, plan.fields, plan.frame, plan.chain_joints)
        self.topic = plan.topic
        self.reader = SerializedReader(extractor) if serialized else MessageReader(extractor)
        self.subscriptions = [subscription(node, extractor.type, plan.topic, qos) for qos in profiles(plan.qos)]


class Inputs:
    """The subscriptions of an observation; ``take`` updates it from the newest messages.

    Args:
        node: what subscribes.
        assembler: names the topics, and is updated.
        serialized: what ``subscription`` takes are bytes.
        subscription: class of the subscriptions.

    Raises:
        SrdpError: a message type is not installed, or has not the fields that the spec names.
    """

    def __init__(
        self,
        node: Node,
        assembler: ObservationAssembler,
        *,
        serialized: bool = True,
        subscription: type[Subscription] = SerializedSubscription,
    ) -> None:
        self.refused = 0
        self.refused_reason = ""
        self._assembler = assembler
        self.inputs = [_Input(node, plan, serialized, subscription) for plan in assembler.plans.values()]

    def take(self, now_ns: int) -> int:
        """Update the observation from what has come by now [monotonic ns].

        Returns when the newest message that was accepted had been received [monotonic ns], or 0.
        """
        newest = 0
        system_ns = time.time_ns()
        for source in self.inputs:
            for subscription in source.subscriptions:
                try:
                    taken = subscription.take()
                    if taken is None:
                        continue
                    received_ns = now_ns - (system_ns - taken[1])
                    credible = abs(now_ns - received_ns) < CREDIBLE_NS  # the system clock may have been stepped since
                    wrong = self._update(source, taken[0], now_ns, system_ns, received_ns if credible else now_ns)
                except Exception as error:  # whatever a message holds, the loop goes on
                    wrong = f"it could not be read: {cause_of(error)}"
                if wrong is not None:
                    self.refused += 1
                    self.refused_reason = f"{source.topic}: {wrong}"
                elif credible:
                    newest = max(newest, received_ns)
        return newest

    def _update(self, source: _Input, message: Any, now_ns: int, system_ns: int, received_ns: int) -> str | None:
        stamp_ns, values, wrong = source.reader.read(message)
        if wrong is not None:
            return wrong
        if stamp_ns is None:
            return self._assembler.update(source.topic, values, received_ns)
        age_ns = system_ns - stamp_ns
        if age_ns < -FUTURE_TOLERANCE_NS:
            return f"its stamp is {-age_ns * 1e-6:.1f} ms in the future; synchronise the clocks"
        return self._assembler.update(source.topic, values, now_ns - age_ns)

    def close(self) -> None:
        """Leave the topics."""
        for source in self.inputs:
            for subscription in source.subscriptions:
                subscription.close()


class EpisodeTopic:
    """``/episode`` (std_msgs/Header), taken by the loop: ``frame_id`` is ``begin`` or ``end``.

    The stamp of a beginning is the time from which on observations belong to the new episode.
    """

    def __init__(self, node: Node) -> None:
        # volatile: it hears publishers that keep their last message for late ones, and those that do not
        self._subscription = DirectSubscription(node, Header, EPISODE_TOPIC, RELIABLE)
        self.close = self._subscription.close
        self.refused = ""

    def take(self, now_ns: int, cycle: Cycle) -> None:
        """Tell the cycle what has been announced since the last call; never waits, never raises."""
        try:
            taken = self._subscription.take()
        except Exception as error:  # rclpy raises what its middleware raises
            self.refused = f"{EPISODE_TOPIC}: {cause_of(error)}"
            return
        if taken is None:
            return
        message = taken[0]
        if message.frame_id == BEGIN:
            age_ns = time.time_ns() - (message.stamp.sec * 1_000_000_000 + message.stamp.nanosec)
            cycle.begin_episode(now_ns - age_ns if abs(age_ns) < CREDIBLE_NS else now_ns)
        elif message.frame_id == END:
            cycle.end_episode()
        else:
            self.refused = f"{EPISODE_TOPIC}: frame_id {message.frame_id!r}; expected {BEGIN!r} or {END!r}"
