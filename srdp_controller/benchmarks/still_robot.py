"""A robot that stands still and can be made to lie: what ``srdp bench faults`` shows a controller.

It publishes whatever topics a spec observes. Its scene is the beginning of an episode of the task's world; where there
is no world, every component stands at its centre.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from srdp_controller.commands import output_fields
from srdp_controller.control.abstention import latent_distance
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import SrdpError
from srdp_controller.messages import Extractor, MessageWriter
from srdp_controller.observation import ObservationAssembler
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.simulation.world import TopicLayout
from srdp_controller.spec import ActionGroup, PolicySpec, TopicSource
from srdp_controller.tasks.task import TaskError, find_task

SETTLE_TICKS = 2000
PROVOKED = 1.2  # thresholds that a cue must exceed to count as one


@dataclass(frozen=True)
class Cue:
    """A component that is moved to near its limit, and what that does.

    Attributes:
        topic: whose message it is.
        place: among the topic's values.
        index: among the observation's components.
        name: of the component.
        value: where it is moved to.
        between: half way there.
        score: latent distance there, in thresholds.
    """

    topic: str
    place: int
    index: int
    name: str
    value: float
    between: float
    score: float


@dataclass
class Scene:
    """What a healthy robot publishes: layout and values of every topic that the spec observes."""

    spec: PolicySpec
    layouts: dict[str, TopicLayout]
    values: dict[str, list[float]]
    required: list[str] = field(default_factory=list)

    def observation(self, values: dict[str, list[float]]) -> np.ndarray:
        """The observation (obs_dim,) of such messages.

        Raises:
            SrdpError: the controller would refuse one of them.
        """
        assembler = ObservationAssembler(self.spec)
        for topic, plan in assembler.plans.items():
            if topic in values:
                filled = dict(zip(self.layouts[topic].fields, values[topic], strict=True))
                problem = assembler.update(topic, [filled.get(path, 0.0) for path in plan.fields], 1)
                if problem:
                    raise SrdpError(f"{topic}: {problem}; a task with a world would know a scene")
        return assembler.vector

    def components(self) -> list[tuple[int, str, int]]:
        """(index, topic, place among its values) of the required components that are fields of messages."""
        found = []
        for component in self.spec.observation:
            source = component.source
            if isinstance(source, TopicSource) and source.default is None:
                fields = self.layouts[source.topic].fields
                if source.field in fields:
                    found.append((component.index, source.topic, fields.index(source.field)))
        return found

    def cue(self, bundle: LoadedBundle, engine: str) -> Cue | None:
        """The component at whose limit the student is least like its teacher; None where none can be moved."""
        thresholds = bundle.calibration().policies.get(engine)
        threshold = max(thresholds.thresholds.values()) if thresholds else float("inf")
        policy = load_engine(bundle, engine, "cpu")
        best: Cue | None = None
        for index, topic, place in self.components():
            component, healthy = self.spec.observation[index], self.values[topic][place]
            margin = 0.02 * (component.upper - component.lower)
            for value in (component.lower + margin, component.upper - margin):
                moved = {**self.values, topic: [*self.values[topic]]}
                moved[topic][place] = value
                policy.observation[0] = self.observation(moved)
                policy.noise[:] = 0.0
                policy.run()
                score = latent_distance(policy) / threshold
                if best is None or score > best.score:
                    best = Cue(topic, place, index, component.name, value, 0.5 * (healthy + value), score)
        return best


def find_scene(spec: PolicySpec, task: str) -> Scene:
    """The beginning of an episode of ``task`` (empty: the spec's), or every component at its centre.

    Raises:
        SrdpError: ``task`` is named and has no world, or the centres make no valid messages.
    """
    plans = ObservationAssembler(spec).plans
    required = [topic for topic, plan in plans.items() if not plan.optional]
    try:
        found = find_task(task or spec.task)
        world = found.make_world(found.scenario("nominal"))
    except TaskError:
        if task:
            raise
        layouts = {topic: TopicLayout(plan.type, tuple(plan.fields), plan.frame) for topic, plan in plans.items()}
        values = {topic: [float(path.endswith("orientation.w")) for path in plans[topic].fields] for topic in required}
        scene = Scene(spec, layouts, values, required)
        for index, topic, place in scene.components():
            scene.values[topic][place] = spec.observation[index].centre
    else:
        world.reset(np.random.default_rng(0))
        values, ticks = {}, 0
        while not set(required) <= set(values) and ticks < SETTLE_TICKS:
            values |= {one.topic: list(one.values) for one in world.measurements() if one.topic in plans}
            world.tick()
            ticks += 1
        world.close()
        scene = Scene(spec, {topic: world.topics[topic] for topic in values}, values, required)
    scene.observation(scene.values)
    return scene


class StillRobot:
    """Publishes a scene at 100 Hz, hears every command, and lies where it is told to.

    Attributes:
        values: what it publishes, by topic.
        silent: topics that it does not publish.
        cut: topics whose messages lack their last entry.
        stamp_shift_ns: added to the stamps.
        copies: how often every message is sent.
        alternate_stamps: every other message is 0.1 s older.
        mode: the controller's.
        commands: (group, its values) as they came over DDS.
    """

    def __init__(self, scene: Scene) -> None:
        rclpy.init()
        self.scene = scene
        self.node = Node("srdp_bench_faults")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.stamped: set[str] = set()
        self.mode = ""
        self.commands: list[tuple[ActionGroup, list[float]]] = []
        self._writers: dict[str, MessageWriter] = {}
        self._short: dict[str, tuple[MessageWriter, list[int]]] = {}
        self._publishers: dict[str, Any] = {}
        for topic in scene.values:
            layout = scene.layouts[topic]
            writer = MessageWriter(layout.type, layout.fields, layout.frame)
            self._writers[topic] = writer
            qos = LATCHED if layout.latched else 5
            self._publishers[topic] = self.node.create_publisher(writer.type, topic, qos)
            if Extractor(layout.type, layout.fields).stamped:
                self.stamped.add(topic)
            entries = [path for path in layout.fields if "[" in path]
            if entries and topic in scene.required:
                entry = entries[-1][entries[-1].index("[") :]
                kept = [place for place, path in enumerate(layout.fields) if entry not in path]
                rest = [layout.fields[place] for place in kept]
                self._short[topic] = MessageWriter(layout.type, rest, layout.frame), kept
        for group in scene.spec.action_groups:
            reader = Extractor(group.output.type, output_fields(group))
            name = group.output.topic.replace("~", "/srdp_controller", 1)
            self.node.create_subscription(reader.type, name, self._hear(group, reader), 100)
        self.node.create_subscription(String, "/srdp_controller/mode", self._on_mode, LATCHED)
        self._reset = self.node.create_client(Trigger, "/srdp_controller/reset")
        self._trigger = Trigger.Request()
        self.heal()

    @property
    def can_be_cut(self) -> list[str]:
        """Required topics whose messages have an array."""
        return list(self._short)

    def heal(self) -> None:
        """Be healthy."""
        self.values = {topic: list(values) for topic, values in self.scene.values.items()}
        self.silent: set[str] = set()
        self.cut: set[str] = set()
        self.stamp_shift_ns = 0
        self.copies = 1
        self.alternate_stamps = False

    def _on_mode(self, message: Any) -> None:
        self.mode = message.data

    def _hear(self, group: ActionGroup, reader: Extractor) -> Callable[[Any], None]:
        return lambda message: self.commands.append((group, reader.values(message)))

    def publish(self) -> None:
        """One round of observations."""
        stamp_ns = time.time_ns() + self.stamp_shift_ns
        if self.alternate_stamps and round(time.monotonic() * 100) % 2:
            stamp_ns -= 100_000_000
        for _ in range(self.copies):
            for topic, values in self.values.items():
                if topic not in self.silent:
                    writer, sent = self._writers[topic], values
                    if topic in self.cut:
                        writer, kept = self._short[topic]
                        sent = [values[place] for place in kept]
                    self._publishers[topic].publish(writer.message(sent, stamp_ns))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Publish at 100 Hz and listen, for so long or until a condition holds; whether it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.publish()
            following = time.monotonic() + 0.01
            while (left := following - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)
        return until()

    def reset(self) -> None:
        """Ask the controller to leave STOP; the answer is not waited for."""
        self._reset.call_async(self._trigger)

    def close(self) -> None:
        """Leave the domain."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()
