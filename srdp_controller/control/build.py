"""Puts a cycle together from parameter values: the node, the benchmarks and the tests use the same one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from srdp_controller.control.abstention import Abstention
from srdp_controller.control.cycle import Cycle, CycleSettings, Publish, Take
from srdp_controller.control.deployment import Deployment, DeploymentRequest, DeploymentSlot
from srdp_controller.control.limits.common import KeepOut, SafetyLimits
from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import Planner
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.control.supervisor import Supervisor, SupervisorTiming
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.bundle import LatencyBudget
from srdp_controller.errors import SrdpError
from srdp_controller.observation import ObservationAssembler
from srdp_controller.resources import find_resource

DWELL_NS = 100_000_000


def default_values() -> dict[str, Any]:
    """The controller node's parameters at their defaults (config/controller_parameters.yaml)."""
    schema = yaml.safe_load(find_resource("config/controller_parameters.yaml").read_text())
    return {name: entry["default"] for name, entry in schema.items()}


def keep_out_zones(numbers: list[float]) -> tuple[KeepOut, ...]:
    """Discs from x, y, radius, x, y, radius, ...

    Raises:
        SrdpError: not three numbers a disc, or a radius that is not above zero.
    """
    zones = [tuple(numbers[start : start + 3]) for start in range(0, len(numbers), 3)]
    for zone in zones:
        if len(zone) != 3 or not all(math.isfinite(value) for value in zone) or zone[2] <= 0.0:
            raise SrdpError(
                f"parameter safety.keep_out: {list(numbers)}: expected x, y, radius for each disc, radius above 0 [m]"
            )
    return tuple(KeepOut(*zone) for zone in zones)


def safety_limits(values: Mapping[str, Any]) -> SafetyLimits:
    """The limits of the ``safety.*`` parameters; those of the bundle's spec come on top.

    Raises:
        SrdpError: a keep-out zone that is none.
    """
    return SafetyLimits(
        values["safety.max_speed"],
        values["safety.max_acceleration"],
        values["safety.max_jerk"],
        values["safety.barrier_gain"],
        keep_out_zones(values["safety.keep_out"]),
    )


def within_budget(values: Mapping[str, Any], budget: LatencyBudget | None) -> Mapping[str, Any]:
    """The parameters with an ``observation.max_age`` that keeps a bundle's latency budget, where it is enforced.

    Raises:
        SrdpError: it is to be enforced, and the bundle has none.
    """
    if not values["latency.enforce"]:
        return values
    if budget is None:
        raise SrdpError("parameter latency.enforce: the bundle has no latency budget; srdp eval budget BUNDLE --store")
    return {**values, "observation.max_age": min(values["observation.max_age"], budget.age_s)}


def build_cycle(
    values: Mapping[str, Any],
    assembler: ObservationAssembler,
    first: Deployment,
    prepare: Callable[[DeploymentRequest], Deployment],
    teacher: Planner,
    ahead: Planner,
    telemetry: Telemetry,
    take: Take,
    publish: Publish,
) -> Cycle:
    """A cycle that drives with ``first``; ``values`` are the node's parameters by name.

    Raises:
        SrdpError: a parameter's value that makes no sense.
    """
    period_ns = round(1e9 / values["update_rate"])
    return Cycle(
        CycleSettings(
            period_ns,
            round(values["observation.max_age"] * 1e9),
            round(values["fallback.teacher_deadline"] * 1e9),
            values["abstain.enabled"],
            values["swap.rollback_cycles"],
            round(values["planning.blend_time"] * 1e9),
            round(values["planning.execution_time"] * 1e9),
        ),
        assembler,
        DeploymentSlot(
            first, prepare, values["helper_priority"] if values["thread_priority"] else 0, values["swap.timeout"]
        ),
        teacher,
        ahead,
        Supervisor(SupervisorTiming(round(values["fallback.hold_time"] * 1e9))),
        Abstention(values["abstain.hysteresis"], DWELL_NS),
        SafetyFilter(assembler.spec, safety_limits(values), period_ns * 1e-9),
        HeldNoise(round(values["noise.hold_time"] * 1e9), values["seed"]),
        telemetry,
        take,
        publish,
    )
