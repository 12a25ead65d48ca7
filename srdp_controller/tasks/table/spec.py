"""What every policy of the arm over its table observes and commands: the tip's place, and its velocity."""

from __future__ import annotations

from typing import Literal

from srdp_controller.spec import (
    ActionComponent,
    ActionGroup,
    KinematicsSource,
    ObservationComponent,
    Output,
    Source,
    Workspace,
)

AXES: tuple[Literal["x", "y"], ...] = ("x", "y")
FRAME = "table"
MAX_TIP_SPEED = 0.4  # of commands [m/s]
WORK_AREA_LOWER_M = (-0.26, -0.17)
WORK_AREA_UPPER_M = (0.26, 0.17)
MARGIN_M = 0.25  # a measured position that far outside the work area is a fault, not a state
TIP_SCALE_M = (0.15, 0.08)
WORKSPACE = Workspace(
    frame=FRAME, lower=WORK_AREA_LOWER_M, upper=WORK_AREA_UPPER_M, position_observations=("tip_x", "tip_y")
)


def coordinate(name: str, axis: int, source: Source, centre: float, scale: float) -> ObservationComponent:
    """A coordinate of something on the table [m]; ``axis`` is 0 for x, 1 for y, ``centre`` and ``scale`` are in m."""
    return ObservationComponent(
        name=f"{name}_{AXES[axis]}",
        unit="m",
        source=source,
        lower=WORK_AREA_LOWER_M[axis] - MARGIN_M,
        upper=WORK_AREA_UPPER_M[axis] + MARGIN_M,
        centre=centre,
        scale=scale,
    )


def tip() -> tuple[ObservationComponent, ...]:
    """The pusher's tip, from the joints through the arm's forward kinematics."""
    return tuple(
        coordinate("tip", number, KinematicsSource(topic="/joint_states", chain="arm", axis=axis), 0.0, scale)
        for number, (axis, scale) in enumerate(zip(AXES, TIP_SCALE_M, strict=True))
    )


def tool(max_speed: float) -> ActionGroup:
    """The tip's velocity; ``max_speed`` [m/s] is what the controller lets through."""
    components = tuple(
        ActionComponent(
            name=f"tip_velocity_{axis}",
            unit="m/s",
            field=f"twist.linear.{axis}",
            lower=-MAX_TIP_SPEED,
            upper=MAX_TIP_SPEED,
            scale=0.15,
        )
        for axis in AXES
    )
    return ActionGroup(
        max_speed=max_speed,
        name="tool",
        kind="twist",
        components=components,
        output=Output(topic="~/command", type="geometry_msgs/msg/TwistStamped", frame=FRAME),
        on_hold="zero",
    )
