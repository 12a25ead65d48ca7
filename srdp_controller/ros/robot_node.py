"""``/srdp_simulation``: the pushing world in real time behind the contract's topics.

Publishes ``/joint_states``, ``/object_pose``, ``/goal_pose`` and ``/post_pose`` with the scenario's
rates, latencies and faults; takes ``/srdp_controller/command``; starts the next episode by itself.
It watches the commands like a driver that trusts nobody: out-of-limit and late ones are counted.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from srdp_controller.control.clock import sleep_until
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_json
from srdp_controller.provenance import describe_run
from srdp_controller.ros.direct_take import LATCHED, DirectSubscription
from srdp_controller.ros.parameters import declare, load_schema
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.tasks.pushing.spec import FRAME, MAX_TIP_SPEED
from srdp_controller.tasks.pushing.world import PHYSICS_RATE_HZ, PushingWorld

FIXTURE_EVERY = PHYSICS_RATE_HZ // 20
FRAME_EVERY = PHYSICS_RATE_HZ // 12
REST_S = 0.25  # between an episode's end and the next one's start


def _set_stamp(header: Any, system_ns: int) -> None:
    header.stamp.sec, header.stamp.nanosec = divmod(system_ns, 1_000_000_000)


class SimulationNode(Node):
    """Real-time simulated robot; parameters are those of config/simulation_parameters.yaml."""

    def __init__(self) -> None:
        super().__init__("srdp_simulation")
        self.values = declare(self, load_schema("simulation_parameters.yaml"))
        self.scenario = load_scenario(self.values["scenario"])
        self.world = PushingWorld(self.scenario, gui=self.values["gui"])
        sensor = QoSProfile(depth=5)
        self._joint_publisher = self.create_publisher(JointState, "/joint_states", sensor)
        self._object_publisher = self.create_publisher(PoseStamped, "/object_pose", sensor)
        self._goal_publisher = self.create_publisher(PoseStamped, "/goal_pose", LATCHED)
        self._post_publisher = self.create_publisher(PoseStamped, "/post_pose", LATCHED)
        self._episode_publisher = self.create_publisher(String, "~/episode", LATCHED)
        self.commands_source = DirectSubscription(self, TwistStamped, "/srdp_controller/command")
        self.create_service(Trigger, "~/reset_episode", self._on_reset)
        self._joint_message = JointState(name=self.world.arm.joint_names)
        self._pose_message = PoseStamped()
        self._pose_message.header.frame_id = FRAME
        self.loop_state = LoopState()
        self.outcomes: list[dict[str, Any]] = []
        self.commands = self.bad_commands = 0
        self.frames: list[tuple[float, ...]] = []
        self.best_frames: list[tuple[float, ...]] = []
        self.best_layout: dict[str, Any] = {}
        self._episode = -1
        self._reset_wanted = False
        self._first_command_s: float | None = None
        self.done = False
        self._next_episode()

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset_wanted = True
        response.success = True
        response.message = f"episode {self._episode} ends"
        return response

    def _next_episode(self) -> None:
        self._episode += 1
        self.world.reset(np.random.default_rng([self.values["seed"], self._episode]))
        self._rest_until = math.inf
        self._recorded = False
        self.frames = []
        self._tick = 0

    def cycle(self, now_ns: int) -> None:
        """One physics step in real time."""
        world = self.world
        taken = self.commands_source.take()
        if taken is not None:
            self._command(taken[0].twist.linear)
        world.step()
        system_ns = time.time_ns()

        def when(measured_s: float) -> int:
            return system_ns - round((world.time_s - measured_s) * 1e9)

        message = self._joint_message
        for joints in world.joint_measurements():
            _set_stamp(message.header, when(joints.measured_s))
            message.position = joints.values.tolist()
            self._joint_publisher.publish(message)
        for pose in world.object_measurements():
            x, y, yaw = [*pose.values.tolist(), 0.0][:3]  # a pose cannot be truncated: its angle is lost
            self._publish_pose(self._object_publisher, x, y, yaw, when(pose.measured_s))
        if self._tick % FIXTURE_EVERY == 0:
            for publisher, place in (
                (self._goal_publisher, world.layout.goal),
                (self._post_publisher, world.layout.post),
            ):
                self._publish_pose(publisher, place[0], place[1], 0.0, system_ns)
        if self._tick % FRAME_EVERY == 0 and not world.outcome.finished:
            angles, _ = world.arm.joint_states()
            self.frames.append((*angles, *world.box_position(), world.box_yaw()))
        self._tick += 1
        self._conclude()

    def _command(self, linear: Any) -> None:
        self.commands += 1
        vx, vy = linear.x, linear.y
        if not (math.isfinite(vx) and math.isfinite(vy) and math.hypot(vx, vy) <= MAX_TIP_SPEED * math.sqrt(2) + 1e-6):
            self.bad_commands += 1
            return
        if self._first_command_s is None:
            self._first_command_s = time.monotonic()
        self.world.send((vx, vy))

    def _publish_pose(self, publisher: Any, x: float, y: float, yaw: float, system_ns: int) -> None:
        message = self._pose_message
        _set_stamp(message.header, system_ns)
        message.pose.position.x, message.pose.position.y = float(x), float(y)
        message.pose.orientation.z, message.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        publisher.publish(message)

    def _conclude(self) -> None:
        world = self.world
        outcome = world.outcome
        if (outcome.finished or self._reset_wanted) and not self._recorded:
            self._recorded = True
            if outcome.finished:
                record = {
                    "episode": self._episode,
                    "success": outcome.success,
                    "duration_s": round(outcome.duration_s, 3),
                    "post_contacts": outcome.post_contacts,
                    "way": outcome.way,
                }
                self._episode_publisher.publish(String(data=json.dumps(record)))
                self.outcomes.append(
                    {
                        **record,
                        "layout": outcome.layout.model_dump(),
                        "box_path": outcome.box_path,
                        "tip_path": outcome.tip_path,
                    }
                )
                if outcome.success and (not self.best_frames or outcome.way == "left"):
                    self.best_frames, self.best_layout = self.frames, outcome.layout.model_dump()
            self._rest_until = world.time_s + REST_S
        if self._recorded and world.time_s >= self._rest_until:
            self._reset_wanted = False
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
                "scenario": self.scenario.name,
                "episodes": len(self.outcomes),
                "successes": sum(outcome["success"] for outcome in self.outcomes),
                "outcomes": self.outcomes,
                "commands": self.commands,
                "bad_commands": self.bad_commands,
                "physics_lateness_us": self.loop_state.lateness.percentiles(),
                "frames": self.best_frames,
                "frames_layout": self.best_layout,
            },
        )


def main(arguments: list[str] | None = None) -> int:
    """Run until ``duration`` is over, or SIGINT or SIGTERM."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = SimulationNode()
    except SrdpError as error:
        print(f"srdp_simulation: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    timing = LoopTiming(round(1e9 / PHYSICS_RATE_HZ), sleep_until, manage_overruns=False)
    thread = threading.Thread(
        target=run_loop,
        args=(timing, node.loop_state, node.cycle, lambda: not stop.is_set() and not node.done),
        name="physics",
        daemon=True,
    )
    thread.start()
    while thread.is_alive():
        executor.spin_once(timeout_sec=0.1)
    crashed = not stop.is_set() and not node.done
    if node.values["run_dir"]:
        node.write_run(Path(node.values["run_dir"]))
    node.world.close()
    node.commands_source.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
