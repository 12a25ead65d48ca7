"""``/srdp_simulation``: any task's world in real time behind the topics of its spec.

Publishes what the world measures, with the scenario's rates, latencies and faults; takes the controller's
commands; announces episodes on ``/episode`` and starts the next one by itself. It watches the commands like a driver
that trusts nobody: those that are out of limits or not finite are counted and not followed.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header, String

from srdp_controller.commands import Track, output_fields, output_type
from srdp_controller.control.clock import sleep_until
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import cause_of
from srdp_controller.files import write_json
from srdp_controller.messages import JOINT_STATE, Extractor, MessageWriter, message_class
from srdp_controller.provenance import describe_run
from srdp_controller.ros.inputs import BEGIN, END, EPISODE_TOPIC, LATCHED, DirectSubscription
from srdp_controller.ros.parameters import declare, load_schema
from srdp_controller.spec import TRAJECTORY, PolicySpec
from srdp_controller.tasks.task import TopicLayout, find_task

FRAMES_PER_S = 10.0
SHOWN_FAILURES = 3  # one of which was driven by one engine, while the first began before any
REST_S = 0.25  # between an episode's end and the next one's start
TOLERANCE = 1e-6  # of limits


class Driver:
    """Puts the commands of all action groups together: what a robot's own driver does.

    Attributes:
        commands: how often a command (act_dim,) was taken.
        bad: how many of them were out of limits, not finite, or no command at all.
    """

    def __init__(self, node: Node, spec: PolicySpec, as_array: bool = False) -> None:
        self.commands = self.bad = 0
        self._limits = [(component.lower - TOLERANCE, component.upper + TOLERANCE) for component in spec.action]
        self._command = [math.nan] * spec.act_dim
        self._silent = {place.start for _, place in spec.group_slices()}
        self._groups: list[tuple[DirectSubscription, Extractor, slice]] = []
        self._tracks: dict[int, tuple[Track, slice]] = {}
        for group, place in spec.group_slices():
            extractor = Extractor(output_type(group, as_array), output_fields(group, as_array), group.output.frame)
            topic = group.output.topic.replace("~", "/srdp_controller", 1)
            self._groups.append((DirectSubscription(node, extractor.type, topic), extractor, place))
            if group.output.type == TRAJECTORY:
                self._tracks[place.start] = Track(), place

    def take(self) -> list[float] | None:
        """The newest command within limits (act_dim,); None where nothing is new, or not every group has been heard."""
        new = False
        for subscription, extractor, place in self._groups:
            taken = subscription.take()
            if taken is None:
                continue
            new = True
            if extractor.check(taken[0]):
                self._command[place] = [math.nan] * (place.stop - place.start)
                continue
            self._command[place] = extractor.values(taken[0])
            self._silent.discard(place.start)
            if place.start in self._tracks:
                self._tracks[place.start][0].take(taken[0], time.time())
        if self._silent or not (new or self._tracks):
            return None
        for track, place in self._tracks.values():
            self._command[place] = track.at(time.time())
        self.commands += new
        if all(low <= value <= high for value, (low, high) in zip(self._command, self._limits, strict=True)):
            return list(self._command)
        self.bad += new
        return None

    def restart(self) -> None:
        """The robot stands elsewhere (an episode began): what was commanded before does not count."""
        for start, (_, place) in self._tracks.items():
            self._tracks[start] = Track(), place
            self._silent.add(start)

    def close(self) -> None:
        """Leave the topics."""
        for subscription, _, _ in self._groups:
            subscription.close()


def message_of(layout: TopicLayout, writer: MessageWriter, values: Sequence[float], stamp_ns: int) -> Any:
    """A topic's message; where a fault has cut values off, a JointState is short and others hold zeros there."""
    missing = len(layout.fields) - len(values)
    message = writer.message([*values, *[0.0] * missing], stamp_ns)
    if missing and layout.type == JOINT_STATE:
        return type(message)(header=message.header, name=message.name, position=message.position[: len(values)])
    return message


class SimulationNode(Node):
    """Real-time simulated robot; parameters are those of config/simulation_parameters.yaml."""

    def __init__(self) -> None:
        super().__init__("srdp_simulation")
        values = self.values = declare(self, load_schema("simulation_parameters.yaml"))
        self.task = find_task(values["task"])
        self.scenario = self.task.scenario(values["scenario"])
        spec = load_bundle(values["model_dir"]).spec if values["model_dir"] else self.task.spec()
        self.world = self.task.make_world(self.scenario, values["seed"], values["gui"])
        sensor = QoSProfile(depth=5)
        self._topics = {
            topic: (
                MessageWriter(layout.type, layout.fields, layout.frame),
                self.create_publisher(message_class(layout.type), topic, LATCHED if layout.latched else sensor),
            )
            for topic, layout in self.world.topics.items()
        }
        self._announcements = self.create_publisher(Header, EPISODE_TOPIC, LATCHED)
        self._outcomes = self.create_publisher(String, "~/episode", LATCHED)
        self.driver = Driver(self, spec, values["command.type"] == "float64_multi_array")
        self.loop_state = LoopState()
        self.outcomes: list[dict[str, Any]] = []
        self._frame_every = max(1, round(1.0 / FRAMES_PER_S / self.world.tick_s))
        self._frames: list[list[float]] = []
        self._failed: list[dict[str, Any]] = []  # to be shown: the first that failed, and the newest that succeeded
        self._succeeded: list[dict[str, Any]] = []
        self._episode = -1
        self._first_command_s: float | None = None
        self.done = False
        self._next_episode()

    def _announce(self, what: str, system_ns: int) -> None:
        message = Header(frame_id=what)
        message.stamp.sec, message.stamp.nanosec = divmod(system_ns, 1_000_000_000)
        self._announcements.publish(message)

    def _next_episode(self) -> None:
        self._episode += 1
        announced_ns = time.time_ns()
        self.world.reset(np.random.default_rng([self.values["seed"], self._episode]))
        self.driver.restart()
        self._announce(BEGIN, announced_ns)
        self._begun_ns = time.time_ns()  # later than what was announced: everything measured now is of this episode
        self._rest_until = math.inf
        self._frames = []
        self._tick = 0

    def cycle(self, now_ns: int) -> None:
        """One tick of the world in real time."""
        world = self.world
        command = self.driver.take()
        if command is not None:
            if self._first_command_s is None:
                self._first_command_s = time.monotonic()
            world.send(command)
        world.tick()
        system_ns = time.time_ns()
        for topic, values, measured_s in world.measurements():
            stamp_ns = max(system_ns - round((world.time_s - measured_s) * 1e9), self._begun_ns)
            writer, publisher = self._topics[topic]
            publisher.publish(message_of(world.topics[topic], writer, values, stamp_ns))
        if self._tick % self._frame_every == 0 and not world.outcome.finished:
            self._frames.append(world.snapshot())
        self._tick += 1
        self._conclude()

    def _conclude(self) -> None:
        world, outcome = self.world, self.world.outcome
        if outcome.finished and self._first_command_s is None:  # nobody drove yet: that is nobody's failure
            self._episode -= 1
            self._next_episode()
        elif outcome.finished and self._rest_until == math.inf:
            self._rest_until = world.time_s + REST_S
            self._announce(END, time.time_ns())
            facts = {"episode": self._episode, "success": outcome.success}
            record = {**facts, "duration_s": round(outcome.duration_s, 3), **outcome.metrics}
            self._outcomes.publish(String(data=json.dumps(record)))
            rest = {"judged": outcome.judged, "metrics": dict(outcome.metrics), "details": outcome.details}
            rest |= {"begun_s": self._begun_ns * 1e-9, "ended_s": time.time()}
            self.outcomes.append({**record, **rest})
            if any(self._frames):
                shown = {**self.outcomes[-1], "frames": self._frames}
                if outcome.success:
                    self._succeeded = [shown]
                elif len(self._failed) < SHOWN_FAILURES:
                    self._failed.append(shown)
        if world.time_s >= self._rest_until:
            self._next_episode()
        duration = self.values["duration"]
        if duration and self._first_command_s is not None and time.monotonic() - self._first_command_s >= duration:
            self.done = True

    def write_run(self, folder: Path) -> None:
        """Write ``simulation.json``: the episodes, the commands that came, the loop's own timing."""
        write_json(
            folder / "simulation.json",
            {
                **describe_run("sim_node", self.values["seed"]),
                "task": self.values["task"],
                "scenario": self.scenario.name,
                "episodes": len(self.outcomes),
                "successes": sum(outcome["success"] for outcome in self.outcomes),
                "outcomes": self.outcomes,
                "commands": self.driver.commands,
                "bad_commands": self.driver.bad,
                "physics_lateness_us": self.loop_state.lateness.percentiles(),
                "frames_per_s": FRAMES_PER_S,
                "shown": [*self._failed, *self._succeeded],
            },
        )

    def close(self) -> None:
        """Free the world and leave the commands' topics."""
        self.world.close()
        self.driver.close()


def main(arguments: list[str] | None = None) -> int:
    """Run until ``duration`` is over, or SIGINT or SIGTERM."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = SimulationNode()
    except Exception as error:  # a task is somebody else's code, and may need packages that are not here
        print(f"srdp_simulation: {cause_of(error)}", file=sys.stderr)
        rclpy.shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    timing = LoopTiming(round(node.world.tick_s * 1e9), sleep_until, manage_overruns=False)
    loop = (timing, node.loop_state, node.cycle, lambda: not stop.is_set() and not node.done)
    thread = threading.Thread(target=run_loop, args=loop, name="physics", daemon=True)
    thread.start()
    while thread.is_alive():
        executor.spin_once(timeout_sec=0.1)
    crashed = not stop.is_set() and not node.done
    if node.values["run_dir"]:
        node.write_run(Path(node.values["run_dir"]))
    node.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
