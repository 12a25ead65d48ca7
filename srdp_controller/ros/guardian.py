"""The guardian: a small process beside the controller that brings the robot to rest when the controller's loop is gone.

It is forked before the node has threads, has publishers of its own on the command topics, and is silent until it must
speak: a cycle that does not return, a dead thread, a dead process. Then it publishes commands within the limits to the
command on hold, says STOP on the mode's topic, and ends a controller that does not notice. When nobody is left, what
remains is the robot's own watchdog.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import String

from srdp_controller.control.build import safety_limits
from srdp_controller.control.guard import CLOSED, DRIVING, READY, SEEN, GuardSlot, bring_to_rest, watch
from srdp_controller.control.privileges import use_fifo
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.errors import SrdpError, cause_of
from srdp_controller.observation import NEVER_NS
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.ros.outputs import Outputs
from srdp_controller.spec import PolicySpec

READY_S = 15.0  # for its publishers to be there
LINGER_S = 0.5  # for its last words to arrive
KILL_AFTER_S = 5.0  # of silence, a controller that does not notice that somebody else drives


class Guardian:
    """The controller's side; ``slot`` is what the loop leaves its commands in.

    Call it before the process has threads of its own: it forks.
    """

    def __init__(self) -> None:
        self.slot = GuardSlot()
        reading, self._pipe = os.pipe()
        parent = os.getpid()
        self._process = os.fork()
        if self._process == 0:
            os.close(self._pipe)
            os._exit(_guard(self.slot, reading, parent))
        os.close(reading)

    def begin(
        self, spec: PolicySpec, values: Mapping[str, Any], topics: list[str], mode_topic: str, most_s: float
    ) -> None:
        """Guard a session; returns once the guardian has its publishers.

        Args:
            spec: of the bundle.
            values: the node's parameters by name.
            topics: of the action groups' commands, as they are called after remapping.
            mode_topic: likewise.
            most_s: what the limits need at most to come to rest.

        Raises:
            SrdpError: it is not there, or not ready in time.
        """
        slot = self.slot
        slot.reset(round(1e9 * (values["guardian.timeout"] + 2.0 / values["update_rate"])))
        slot.open(spec.act_dim, spec.obs_dim)
        job = {
            "spec": spec.model_dump(mode="json"),
            "values": dict(values),
            "topics": topics,
            "mode_topic": mode_topic,
            "most_s": most_s,
        }
        try:
            os.write(self._pipe, b"%s\n" % json.dumps(job).encode())
        except OSError as error:
            raise SrdpError(f"the guardian is gone ({error}); start the node anew") from None
        give_up = time.monotonic() + READY_S
        while not slot.words[READY]:
            if time.monotonic() > give_up or not self.alive():
                raise SrdpError("the guardian did not start; set guardian.enabled:=false to drive without one")
            time.sleep(0.005)

    def end(self) -> None:
        """The session is over, and the robot at rest."""
        self.slot.words[DRIVING] = 0
        self.slot.words[CLOSED] = 1

    def alive(self) -> bool:
        """Whether its process is there."""
        if self._process:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self._process, os.WNOHANG) == (0, 0):
                    return True
            self._process = 0
        return False

    def close(self) -> None:
        """End the process."""
        self.end()
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        give_up = time.monotonic() + 5.0
        while self.alive() and time.monotonic() < give_up:
            time.sleep(0.005)
        if self._process:
            os.kill(self._process, signal.SIGKILL)


# --- the guardian's process -----------------------------------------------------------------------


def _guard(slot: GuardSlot, reading: int, parent: int) -> int:
    """Guard one session after another until the controller's end of the pipe is closed."""
    os.setsid()  # a signal to the controller's group is not for this process
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        with os.fdopen(reading) as jobs:
            for line in jobs:
                if _session(slot, json.loads(line), parent):
                    return 0
    except Exception as error:
        print(f"srdp_guardian: {cause_of(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def _session(slot: GuardSlot, job: dict[str, Any], parent: int) -> bool:
    """Guard one session; whether the robot had to be stopped."""
    values, spec = job["values"], PolicySpec.model_validate(job["spec"])
    use_fifo(min(99, values["thread_priority"] + 1) if values["thread_priority"] else 0)
    slot.open(spec.act_dim, spec.obs_dim)
    period_s = 1.0 / values["update_rate"]
    safety = SafetyFilter(spec, safety_limits(values), period_s)
    context = Context()
    rclpy.init(args=[], context=context)
    node = Node("srdp_guardian", context=context, use_global_arguments=False, enable_rosout=True)
    try:
        as_array = values["command.type"] == "float64_multi_array"
        outputs = Outputs(node, spec, as_array=as_array, topics=job["topics"])
        mode = node.create_publisher(String, job["mode_topic"], LATCHED)
        slot.words[READY] = 1
        cause = watch(slot, period_s, lambda: os.getppid() == parent)
        if not cause:
            return False
        bring_to_rest(slot, safety, lambda command: outputs.publish(command, [], NEVER_NS), job["most_s"])
        mode.publish(String(data="STOP"))
        node.get_logger().fatal(f"{cause}: the guardian has brought the robot to rest")
        time.sleep(LINGER_S)
        _end_whoever_does_not_notice(slot, parent)
        return True
    finally:
        node.destroy_node()
        context.try_shutdown()


def _end_whoever_does_not_notice(slot: GuardSlot, parent: int) -> None:
    """A controller that hangs with the interpreter's lock would say for ever that it is active."""
    waited_s = 0.0
    while os.getppid() == parent and not slot.words[SEEN] and not slot.words[CLOSED]:
        if waited_s > KILL_AFTER_S:
            print("srdp_guardian: the controller does not answer; it is killed", file=sys.stderr, flush=True)
            os.kill(parent, signal.SIGKILL)
            return
        time.sleep(0.05)
        if not _is_stopped(parent):  # by SIGSTOP: it will notice when it goes on
            waited_s += 0.05


def _is_stopped(process: int) -> bool:
    """Whether a process was stopped by a signal."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False
