"""``srdp record``: what is said in the running graph as an MCAP bag, where ``ros2 bag record`` is not installed.

Messages are written as they came over the wire, with the time of their arrival; a topic that appears later is
recorded from then on. The bag is whole however the recording ends, but for SIGKILL.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
import tyro
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from srdp_controller.errors import SrdpError
from srdp_controller.messages import known_class

DISCOVERY_S = 0.2
PATIENCE_S = 5.0  # until somebody is found
DEPTH = 1000  # messages that wait while one is written
BAR = "=" * 80 + "\n"
UNHEARD = ("/rosout", "/parameter_events")
PRIMITIVES = {"float": "float32", "double": "float64", "boolean": "bool", "octet": "byte"}


def definition(message: Any) -> str:
    """The definition of a message class and of all that it is made of, as MCAP's ``ros2msg`` schemas have it."""
    written: dict[str, str] = {}

    def add(kind: Any) -> str:
        lines = []
        for name, text in kind.get_fields_and_field_types().items():
            inner, dimension = _array(text)
            if "/" in inner:
                part = "/".join((inner.split("/")[0], "msg", inner.split("/")[-1]))
                if part not in written:
                    written[part] = ""  # before its parts, so that the order is that of first use
                    written[part] = add(known_class(part))
            lines.append(f"{PRIMITIVES.get(inner, inner)}{dimension} {name}\n")
        return "".join(lines)

    return BAR.join([add(message), *(f"MSG: {name.replace('/msg/', '/')}\n{text}" for name, text in written.items())])


def _array(text: str) -> tuple[str, str]:
    """Type of the elements and ``[]``, ``[N]``, ``[<=N]`` or nothing, of a field as rosidl names it."""
    sequence = re.fullmatch(r"sequence<(.+?)(?:, (\d+))?>", text)
    if sequence:
        return sequence[1], f"[<={sequence[2]}]" if sequence[2] else "[]"
    array = re.fullmatch(r"(.+)\[(\d+)\]", text)
    bounded = re.fullmatch(r"(w?string)<(\d+)>", text)
    if bounded:
        return f"{bounded[1]}<={bounded[2]}", ""
    return (array[1], f"[{array[2]}]") if array else (text, "")


class _Bag(Node):  # type: ignore[misc]
    """Subscribes to what there is, and writes what comes."""

    def __init__(self, path: Path, topics: tuple[str, ...]) -> None:
        from mcap.writer import Writer

        super().__init__("srdp_record")
        self.heard: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.began_s: float | None = None  # when the first topic was found
        self._wanted = topics
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(profile="ros2", library="srdp record")
        self._schemas: dict[str, int] = {}
        self.create_timer(DISCOVERY_S, self.discover)
        self.discover()

    def discover(self) -> None:
        """Subscribe to topics that are new."""
        for topic, types in self.get_topic_names_and_types():
            if topic in self.refused or topic in UNHEARD or (self._wanted and topic not in self._wanted):
                continue
            publishers = self.get_publishers_info_by_topic(topic)
            known = self.heard.setdefault(
                topic, {"type": types[0], "publishers": 0, "subscribers": 0, "messages": 0, "listening": False}
            )
            others = [one for one in self.get_subscriptions_info_by_topic(topic) if one.node_name != self.get_name()]
            known["publishers"] = max(known["publishers"], len(publishers))
            known["subscribers"] = max(known["subscribers"], len(others))
            if known["listening"] or not publishers:
                continue
            try:
                self._listen(topic, types[0], [one.qos_profile for one in publishers])
                known["listening"] = True
                self.began_s = self.began_s or time.monotonic()
            except SrdpError as error:
                self.refused[topic] = str(error)
                print(f"{topic}: not recorded: {self.refused[topic]}")

    def _listen(self, topic: str, kind: str, offered: list[Any]) -> None:
        message = known_class(kind)
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", definition(message).encode())
        channel = self._writer.register_channel(topic, "cdr", self._schemas[kind])
        reliable = all(one.reliability == ReliabilityPolicy.RELIABLE for one in offered)
        kept = all(one.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in offered)
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
        )
        known = self.heard[topic]

        def take(data: bytes) -> None:
            now_ns = time.time_ns()
            self._writer.add_message(channel, now_ns, bytes(data), now_ns, known["messages"])
            known["messages"] += 1

        self.create_subscription(message, topic, take, qos, raw=True)

    def close(self) -> None:
        """Write the index."""
        self._writer.finish()
        self._file.close()
        self.destroy_node()


def record(
    output: tyro.conf.Positional[Path],
    topics: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    duration: float = 0.0,
) -> dict[str, Any]:
    """Record topics of this shell's ROS domain as an MCAP bag, until Ctrl-C, where `ros2 bag record` is not there.

    Exits with status 1 where nothing came on a topic that was named.

    Args:
        output: folder for the bag; must not be there yet
        topics: to be recorded (default: all)
        duration: seconds from the first topic on; 0: until it is interrupted

    Raises:
        SrdpError: the folder is there already, or nothing was said.
    """
    if output.exists():
        raise SrdpError(f"{output} is there already; give a new folder")
    rclpy.init()
    bag = _Bag(output / f"{output.name}_0.mcap", topics)
    print("recording; Ctrl-C ends it" if not duration else f"recording for {duration:g} s", flush=True)
    executor = SingleThreadedExecutor()
    executor.add_node(bag)
    began, warned = time.monotonic(), False
    until = began + (duration + PATIENCE_S if duration else float("inf"))
    try:
        while rclpy.ok() and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.05)
            if not warned and time.monotonic() > began + PATIENCE_S:
                warned = True
                silent = [topic for topic in topics if not bag.heard.get(topic, {}).get("messages")]
                if silent:
                    print(f"nothing has come yet on {', '.join(silent)}", file=sys.stderr, flush=True)
            if duration and bag.began_s is not None:  # finding the others takes a while
                until = bag.began_s + duration
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        bag.close()
        rclpy.try_shutdown()
    found = {topic: known for topic, known in sorted(bag.heard.items()) if topic not in bag.refused}
    for topic, known in found.items():
        if known["messages"] or known["publishers"]:
            print(f"{topic} ({known['type']}): {known['messages']} messages")
    missing = [topic for topic in topics if not bag.heard.get(topic, {}).get("messages")]
    if not any(known["messages"] for known in found.values()):
        shutil.rmtree(output)
        raise SrdpError(
            f"{output}: nothing was said in {duration:g} s; is the robot running, in this ROS_DOMAIN_ID?"
            if duration
            else f"{output}: nothing was said; is the robot running, in this ROS_DOMAIN_ID?"
        )
    if missing:
        print(f"nothing came on {', '.join(missing)}", file=sys.stderr)
    return {
        "seed": 0,
        "bag": str(output),
        "topics": found,
        "not_recorded": bag.refused,
        "failed": bool(missing),
    }
