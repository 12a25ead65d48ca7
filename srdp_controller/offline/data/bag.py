"""Demonstrations out of MCAP bags (``ros2 bag record``): what the controller would have seen, and what was commanded.

Messages go through the controller's own ``Extractor`` and ``ObservationAssembler``, at the spec's rate: at every tick
the newest message of each topic that had come by then. No ROS is needed: bags bring their messages' definitions.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.commands import Track, output_fields, output_joints
from srdp_controller.errors import DatasetError
from srdp_controller.messages import Extractor
from srdp_controller.observation import ObservationAssembler
from srdp_controller.offline.dataset import Trajectory
from srdp_controller.offline.recipe import BagRecipe
from srdp_controller.progress import Progress
from srdp_controller.recordings.mcap_file import bag_files, damage_named, decoders, is_stamped, open_bag, ros_name
from srdp_controller.recordings.streams import (
    EPISODE_TOPIC,
    EPISODE_TYPE,
    Stream,
    announced,
    between_gaps,
    called,
    marked,
)
from srdp_controller.spec import TRAJECTORY, ActionGroup, PolicySpec

CONTROLLER = "/srdp_controller"  # where a spec's topics ~/... are
FUTURE_S = 0.01  # a stamp so far ahead of its message's arrival is another clock's
SHORTEST_STEPS = 2  # of an episode: fewer teach nothing
ANY = object()  # wanted of a topic whose messages say nothing but that they came


@dataclass
class BagContent:
    """What one bag holds of a spec's topics."""

    path: Path
    sensors: dict[str, Stream]
    commands: dict[str, Stream]  # by action group; values (components,) or, of trajectories, the message
    marks: dict[str, Stream]  # of the topics that tell episodes apart
    first_ns: int
    last_ns: int


@dataclass
class Imported:
    """Trajectories and what was found on the way.

    Attributes:
        left_out: why episodes are missing, by reason.
        refused: messages that the controller would refuse, by topic and what was wrong with the first.
        heard: messages that it would have looked at, by topic.
        limited: share of the commands outside the spec's limits, by action.
        remarks: what is odd about the messages' times, a sentence each.
    """

    trajectories: list[Trajectory] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    limited: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, why: str) -> None:
        """Count an episode that is not imported."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


def topic_of(group: ActionGroup, recipe: BagRecipe) -> str:
    """Where a bag has the commands of a group."""
    return recipe.commands.get(group.name) or group.output.topic.replace("~", CONTROLLER, 1)


class BagReader:
    """Reads the topics of a spec out of bags.

    Raises:
        DatasetError: actions are to be taken from motion that the spec does not measure.
    """

    def __init__(self, spec: PolicySpec, recipe: BagRecipe) -> None:
        self.spec, self.recipe = spec, recipe
        self.found = Imported()
        self._assembler = ObservationAssembler(spec)
        self._sensors = spec.sensor_indices()
        self._step_ns = round(spec.step_s * 1e9)
        self._commanded = {topic_of(group, recipe): group for group in spec.action_groups}
        self._motion = [] if recipe.actions == "commands" else _measured_motion(spec)
        self._limits = spec.action_limits()
        self._outside = np.zeros(spec.act_dim)
        self._steps = 0

    def read(self, path: Path) -> BagContent:
        """One bag's messages of the spec's topics.

        Raises:
            DatasetError: a topic is missing or of another type, or the file is damaged.
        """
        file, reader, summary = open_bag(path)
        with file:
            there = {channel.topic: summary.schemas.get(channel.schema_id) for channel in summary.channels.values()}
            wanted = self._wanted(path, there)
            make = decoders(path)
            streams = {topic: Stream() for topic in wanted}
            readers: dict[int, tuple[str, Any, Any]] = {}
            with damage_named(path):
                for schema, channel, message in reader.iter_messages(topics=list(wanted)):
                    if wanted[channel.topic] is ANY:
                        streams[channel.topic].add(message.log_time, None, None, None)
                        continue
                    if channel.id not in readers:
                        take = _taker(channel.topic, schema, wanted[channel.topic])
                        readers[channel.id] = channel.topic, make(schema, channel), take
                    topic, decode, take = readers[channel.id]
                    stamp_ns, values, wrong = take(decode(message.data))
                    by_stamp = self.recipe.time == "stamp" and stamp_ns is not None
                    streams[topic].add(stamp_ns if by_stamp else message.log_time, stamp_ns, values, wrong)
        for stream in streams.values():
            stream.sort()
        plans = self._assembler.plans
        times = [time_ns for topic in plans if topic in streams for time_ns in streams[topic].times]
        if not times:
            raise DatasetError(f"{path}: no message of {', '.join(plans)}")
        marks = {topic: streams[topic] for topic in self._marks(there)}
        sensors = {topic: streams[topic] for topic in plans if topic in streams}
        commands = {group.name: streams[topic] for topic, group in self._commanded.items() if topic in streams}
        for topic, stream in sensors.items():
            if not plans[topic].optional:
                self.found.remarks += [f"{path.name}: {topic} {text}" for text in self._odd_times(stream)]
        return BagContent(path, sensors, commands, marks, min(times), max(times))

    def _odd_times(self, stream: Stream) -> Iterator[str]:
        """What is odd about the times of a topic's messages."""
        pauses = np.diff(np.array(stream.times, dtype=np.int64)) * 1e-9
        if not len(pauses):
            yield "has one message only"
            return
        median = float(np.median(pauses))
        if median > 1.5 * self.spec.step_s:
            yield f"comes at {1.0 / median:.3g} Hz, the spec's control_rate_hz is {self.spec.control_rate_hz:g}"
        stamps = np.array([stamp for stamp in stream.stamps if stamp is not None], dtype=np.int64)
        backwards = int((np.diff(stamps) < 0).sum()) if len(stamps) else 0
        if backwards:
            yield f"has {backwards} stamps that are older than the one before; the controller ignores such messages"
        if len(stamps) == len(stream.times):
            ahead = (stamps - np.array(stream.times, dtype=np.int64)) * 1e-9
            if ahead.max() > FUTURE_S:
                yield f"has stamps up to {ahead.max():.3g} s after their arrival; synchronise the clocks"

    def _marks(self, there: dict[str, Any]) -> dict[str, tuple[Any, str]]:
        """The topics that tell episodes apart, each with what takes its messages and its type."""
        marker, said = self.recipe.marker, self.recipe.episodes == "topic"
        if marker is not None and not said:
            return {marker.topic: (marker, marker.type)}
        if self.recipe.begin and not said:
            return {topic: (ANY, "") for topic in (self.recipe.begin, self.recipe.end) if topic}
        return {EPISODE_TOPIC: (None, EPISODE_TYPE)} if said or EPISODE_TOPIC in there else {}

    def _wanted(self, path: Path, there: dict[str, Any]) -> dict[str, Any]:
        """Topics to be read, each with its plan, its group, or None (the topic of episodes)."""
        wanted: dict[str, Any] = {}
        types: dict[str, str] = {}
        missing: list[str] = []
        for topic, plan in self._assembler.plans.items():
            if topic in there:
                wanted[topic], types[topic] = plan, plan.type
            elif not plan.optional:
                missing.append(topic)
        if self.recipe.actions == "commands":
            for topic, group in self._commanded.items():
                if topic in there:
                    wanted[topic], types[topic] = group, group.output.type
                else:
                    missing.append(f"{topic} (commands of {group.name}; data.bag.commands names another topic)")
        for topic, (taken, kind) in self._marks(there).items():
            if topic not in there:
                missing.append(f"{topic} (data.bag: it tells episodes apart)")
                continue
            wanted[topic] = taken
            if kind:
                types[topic] = kind
        if missing:
            raise DatasetError(f"{path}: no topic {', '.join(missing)}; the bag has {', '.join(sorted(there))}")
        for topic, expected in types.items():
            schema = there[topic]
            given = ros_name(schema.name) if schema is not None else "of no type"
            if given != expected:
                raise DatasetError(f"{path}: topic {topic} is {given}, the spec expects {expected}")
        return wanted

    def episodes(self, content: BagContent) -> Iterator[tuple[int, int]]:
        """Begin and end [ns] of a bag's episodes."""
        recipe, how, marks = self.recipe, self.recipe.episodes, content.marks
        if how == "auto":
            said = any(stream.times for stream in marks.values())
            how = "marker" if recipe.marker else "calls" if recipe.begin else "topic" if said else "file"
        if how == "file":
            yield content.first_ns, content.last_ns
        elif how == "topic":
            yield from announced(marks[EPISODE_TOPIC], content.last_ns)
        elif how == "marker":
            (stream,) = marks.values()
            yield from marked(stream, content.last_ns)
        elif how == "calls":
            ends = marks[recipe.end].times if recipe.end else []
            yield from called(marks[recipe.begin].times, ends, content.last_ns)
        else:
            times = sorted(time_ns for stream in content.sensors.values() for time_ns in stream.times)
            yield from between_gaps(times, round(self.recipe.gap * 1e9))

    def add(self, path: Path) -> None:
        """Import a bag's episodes.

        Raises:
            DatasetError: as of ``read``.
        """
        self._assembler = ObservationAssembler(self.spec)  # bags come in any order: nothing of another one counts
        content = self.read(path)
        for number, (begin_ns, end_ns) in enumerate(self.episodes(content)):
            self._add_episode(content, begin_ns, end_ns, f"{path.name}, episode {number}")
        for action, share in zip(self.spec.action, self._outside / max(self._steps, 1), strict=True):
            if share:
                self.found.limited[action.name] = float(share)

    def _add_episode(self, content: BagContent, begin_ns: int, end_ns: int, source: str) -> None:
        assembler, step_ns = self._assembler, self._step_ns
        assembler.discard_before(begin_ns)
        taken = dict.fromkeys(content.sensors, -1)
        # a topic with defaults keeps what it said before
        for topic, stream in content.sensors.items():
            if not assembler.plans[topic].optional:
                taken[topic] = bisect.bisect_left(stream.times, begin_ns) - 1
        firsts = [
            stream.times[taken[topic] + 1]
            for topic, stream in content.sensors.items()
            if not assembler.plans[topic].optional and taken[topic] + 1 < len(stream.times)
        ]
        now_ns = max([begin_ns, *firsts])
        tracks = {group.name: Track() for group in self.spec.action_groups if group.output.type == TRAJECTORY}
        followed = dict.fromkeys(tracks, -1)
        observed: list[np.ndarray] = []
        acted: list[np.ndarray] = []
        why = "no command in it"
        while now_ns <= end_ns:
            self._observe(content, taken, now_ns)
            missing = assembler.missing() or [assembler.stale(now_ns, round(self.recipe.gap * 1e9))]
            if missing[0]:
                if observed:
                    what = ", ".join(missing)
                    self.found.remarks.append(f"{source} ends after {len(observed)} steps: {what}")
                    break  # what came before the gap is whole
                why = f"no valid message of {missing[0].partition(':')[0]}"
                now_ns += step_ns
                continue
            sensed = assembler.vector[self._sensors].copy()
            action = self._commands_at(content, begin_ns, now_ns + step_ns // 2, tracks, followed)
            if action is None:
                if observed:
                    break
                now_ns += step_ns
                continue
            observed.append(sensed)
            acted.append(action)
            now_ns += step_ns
        # the last observation is what the last action led to
        if len(observed) <= SHORTEST_STEPS:
            self.found.leave_out(why if not observed else f"shorter than {SHORTEST_STEPS} steps")
            return
        observation = np.array(observed, np.float32)
        action = self._of_motion(observation) if self._motion else np.array(acted[:-1], np.float32)
        low, high = self._limits
        outside = (action < low - 1e-6) | (action > high + 1e-6)
        self._outside += outside.sum(axis=0)
        self._steps += len(action)
        action = np.clip(action, low, high).astype(np.float32)
        self.found.trajectories.append(Trajectory(observation[:-1], action, observation[-1]))
        self.found.sources.append(source)

    def _observe(self, content: BagContent, taken: dict[str, int], now_ns: int) -> None:
        """Take each topic's newest message, as the loop does."""
        for topic, stream in content.sensors.items():
            index = stream.newest(now_ns)
            if index <= taken[topic]:
                continue
            taken[topic] = index
            self.found.heard[topic] = self.found.heard.get(topic, 0) + 1
            wrong = stream.wrong[index]
            if wrong is None:
                stamp_ns = stream.stamps[index]
                measured_ns = stream.times[index] if stamp_ns is None else stamp_ns
                wrong = self._assembler.update(topic, stream.values[index], measured_ns)
            if wrong is not None:
                count, first = self.found.refused.get(topic, (0, wrong))
                self.found.refused[topic] = (count + 1, first)

    def _commands_at(
        self, content: BagContent, begin_ns: int, time_ns: int, tracks: dict[str, Track], followed: dict[str, int]
    ) -> np.ndarray | None:
        """The command (act_dim,) in force at a time; None where a group has had none in this episode."""
        if self._motion:
            return np.zeros(self.spec.act_dim)
        command = np.zeros(self.spec.act_dim)
        for group, place in self.spec.group_slices():
            stream = content.commands[group.name]
            index = stream.newest(time_ns)
            if index < 0 or stream.times[index] < begin_ns or stream.wrong[index] is not None:
                return None
            if group.name not in tracks:
                command[place] = stream.values[index]
                continue
            track = tracks[group.name]
            if not track.times:  # a controller of trajectories begins where the joints are
                measured = [self.spec.observation_index(str(one.measured_by)) for one in group.components]
                track.times, track.points = [begin_ns * 1e-9], [self._assembler.vector[measured].tolist()]
            for later in range(
                max(followed[group.name], bisect.bisect_left(stream.times, begin_ns) - 1) + 1, index + 1
            ):
                message, order = stream.values[later]
                track.take(message, stream.times[later] * 1e-9, order)
            followed[group.name] = index
            command[place] = track.at(time_ns * 1e-9)
        return command if np.isfinite(command).all() else None

    def _of_motion(self, observation: np.ndarray) -> np.ndarray:
        """Actions (n, act_dim) that would have made the measured motion (n + 1, sensors)."""
        columns = []
        for index, differs in self._motion:
            values = observation[:, self._sensors.index(index)]
            columns.append(np.diff(values) / self.spec.step_s if differs else values[1:])
        return np.stack(columns, axis=1).astype(np.float32)


def _measured_motion(spec: PolicySpec) -> list[tuple[int, bool]]:
    """For each action the observation that measures it, and whether the action is its rate."""
    workspace, found = spec.workspace, []
    for group in spec.action_groups:
        for action in group.components:
            measured = action.measured_by
            axis = re.fullmatch(r"twist\.linear\.([xyz])", action.field)
            if measured is None and axis is not None and workspace is not None and axis[1] in workspace.named_axes():
                measured = workspace.position_observations[workspace.named_axes().index(axis[1])]
            if measured is None or group.kind == "joint_effort":
                raise DatasetError(
                    f"data.bag.actions is motion, but no observation measures action {action.name}; set its "
                    "measured_by, or data.bag.actions=commands"
                )
            found.append((spec.observation_index(measured), group.kind in ("twist", "joint_velocity")))
    return found


def _taker(topic: str, schema: Any, wanted: Any) -> Callable[[Any], tuple[int | None, Any, str | None]]:
    """What takes (stamp, values, what is wrong) out of a decoded message of a topic."""
    stamped = is_stamped(schema)
    if wanted is None:  # of episodes: a Header is its own stamp
        return lambda message: (_nanoseconds(message.stamp), message.frame_id, None)
    if isinstance(wanted, ActionGroup):
        if wanted.output.type == TRAJECTORY:
            joints = output_joints(wanted)
            return lambda message: (None, *_trajectory(message, joints))
        extractor = Extractor(wanted.output.type, output_fields(wanted), stamped=stamped)
    elif hasattr(wanted, "chain_joints"):
        extractor = Extractor(wanted.type, wanted.fields, wanted.frame, wanted.chain_joints, stamped=stamped)
    else:
        extractor = Extractor(wanted.type, [wanted.field], stamped=stamped)

    def take(message: Any) -> tuple[int | None, Any, str | None]:
        wrong = extractor.check(message)
        return extractor.stamp_ns(message), extractor.values(message) if wrong is None else (), wrong

    return take


def _trajectory(message: Any, joints: list[str]) -> tuple[Any, str | None]:
    """A JointTrajectory with the places of these joints in it, or what is wrong."""
    names = list(message.joint_names)
    missing = [joint for joint in joints if joint not in names]
    if missing or not message.points:
        return None, f"joint {missing[0]!r} is not in the trajectory" if missing else "a trajectory without points"
    return (message, [names.index(joint) for joint in joints]), None


def _nanoseconds(stamp: Any) -> int:
    seconds = stamp.sec if hasattr(stamp, "sec") else stamp.secs
    return int(seconds * 1_000_000_000 + (stamp.nanosec if hasattr(stamp, "nanosec") else stamp.nsecs))


def import_bags(path: Path, spec: PolicySpec, recipe: BagRecipe, progress: Progress) -> Imported:
    """The episodes of all bags at ``path``.

    Raises:
        DatasetError: no bag, a damaged one, one that lacks a topic, or no episode in any.
    """
    files = bag_files(path)
    reader = BagReader(spec, recipe)
    for number, file in enumerate(files):
        reader.add(file)
        progress(number + 1, len(files), f"{len(reader.found.trajectories)} episodes")
    if not reader.found.trajectories:
        refused = [f"{topic} refused: {why}" for topic, (_, why) in reader.found.refused.items()]
        reasons = "; ".join([*(f"{count}: {why}" for why, count in reader.found.left_out.items()), *refused])
        raise DatasetError(f"{path}: no episode in {len(files)} bags; {reasons or 'nothing announces one'}")
    return reader.found
