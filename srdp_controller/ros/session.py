"""Everything that lives from ``configure`` to ``cleanup``: bundle, engines, topics, cycle, loop and recording."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from srdp_controller.control.build import build_cycle
from srdp_controller.control.deployment import DeploymentRequest
from srdp_controller.control.planner import PlanWorker
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.observation import ObservationAssembler
from srdp_controller.ros.inputs import EpisodeTopic, Inputs
from srdp_controller.ros.loop_thread import stopping_time_s
from srdp_controller.ros.outputs import Outputs
from srdp_controller.ros.preparation import Preparation
from srdp_controller.ros.run_files import Recording

if TYPE_CHECKING:
    from srdp_controller.ros.controller_node import ControllerNode

TELEMETRY_ROWS = 120_000


class Session:
    """What a configured node consists of; ``close`` frees it, also where only a part was made."""

    def __init__(self, node: ControllerNode, values: Mapping[str, Any], request: DeploymentRequest) -> None:
        """Load, verify and warm up everything.

        Raises:
            SrdpError: what does not fit, all of it where that can be told at once.
        """
        with contextlib.ExitStack() as made:
            preparation = self.preparation = Preparation(values, request, node.get_logger(), node.load)
            spec, values = preparation.bundle.spec, preparation.values
            first = preparation.prepare(request)
            assembler = ObservationAssembler(spec)
            inputs = self.inputs = Inputs(
                node, assembler, serialized=node.serialized, subscription=node.subscription_class
            )
            made.callback(inputs.close)
            as_array = values["command.type"] == "float64_multi_array"
            outputs = Outputs(node, spec, as_array=as_array, serialized=node.serialized)
            made.callback(outputs.close)
            episodes = self.episodes = EpisodeTopic(node)
            made.callback(episodes.close)
            teacher, ahead = PlanWorker(first.teacher, "teacher"), PlanWorker(first.engine, "planner")
            made.callback(teacher.close)
            made.callback(ahead.close)
            self.telemetry = Telemetry(TELEMETRY_ROWS, spec, shared=values["record"])

            def take(now_ns: int) -> int:
                newest_ns = inputs.take(now_ns)
                statistics = cycle.statistics
                statistics.rejected_messages, statistics.rejected_reason = inputs.refused, inputs.refused_reason
                return newest_ns

            def run(now_ns: int) -> None:
                episodes.take(now_ns, cycle)  # before the cycle, which must not mix two episodes
                cycle(now_ns)

            def publish(command: list[float], following: list[list[float]], measured_ns: int) -> None:
                self.loop.publish(command, following, measured_ns)

            cycle = self.cycle = build_cycle(
                values, assembler, first, preparation.prepare, teacher, ahead, self.telemetry, take, publish
            )
            self.recording = Recording(self.telemetry, spec, values) if values["record"] else None
            if self.recording is not None:
                made.callback(self.recording.close)
            stopping_s, guardian = stopping_time_s(spec, values), node.guardian
            if guardian is not None:
                guardian.begin(spec, values, outputs.topics, node.mode_topic, stopping_s)
                made.callback(guardian.end)
            self.loop = node.make_loop(run, cycle, outputs.publish, stopping_s)
            made.callback(self.loop.stop)
            self.close = made.pop_all().close
        node.get_logger().info(
            f"bundle {preparation.bundle.folder}: engine {first.name} on {first.engine.provider}, "
            f"run time {first.run_time_ns * 1e-3:.0f} us in a period of {self.loop.period_ns * 1e-3:.0f} us"
            f"{' (planning ahead)' if first.ahead else ''}, abstention threshold {first.threshold:.3g}"
        )
