"""The pushing task's ``PolicySpec``: which topics it observes and what it commands.

| index | observation | source |
| --- | --- | --- |
| 0, 1 | pusher tip x, y | ``/joint_states`` through the arm's forward kinematics |
| 2, 3 | object x, y | ``/object_pose`` |
| 4, 5 | goal x, y | ``/goal_pose`` |
| 6, 7 | post x, y | ``/post_pose``, optional: a fixture, at its nominal place until told otherwise |
"""

from __future__ import annotations

from typing import Literal

from srdp_controller.spec import (
    ActionComponent,
    ActionGroup,
    KinematicsSource,
    ObservationComponent,
    Output,
    PolicySpec,
    Source,
    TopicSource,
    Workspace,
)
from srdp_controller.tasks.pushing.arm import arm_chain

AXES: tuple[Literal["x", "y"], ...] = ("x", "y")
HORIZON = 16
CONTROL_RATE_HZ = 40.0
MAX_TIP_SPEED = 0.4  # of the demonstrations' commands
MAX_DRIVEN_SPEED = 0.22  # at the demonstrations' own speed the disc bears hardly any delay
FRAME = "table"
POSE = "geometry_msgs/msg/PoseStamped"
WORK_AREA_LOWER_M = (-0.26, -0.17)
WORK_AREA_UPPER_M = (0.26, 0.17)
MARGIN_M = 0.25  # a measured position that far outside the work area is a fault, not a state


def pushing_spec() -> PolicySpec:
    """Specification of the pushing task (observation (8,), action chunk (16, 2))."""
    observation = []
    for name, centre_x, scale in (
        ("tip", 0.0, {"x": 0.15, "y": 0.08}),
        ("object", 0.0, {"x": 0.12, "y": 0.08}),
        ("goal", 0.15, {"x": 0.03, "y": 0.05}),
        ("post", 0.0, {"x": 0.02, "y": 0.02}),
    ):
        for axis, lower, upper in zip(AXES, WORK_AREA_LOWER_M, WORK_AREA_UPPER_M, strict=True):
            source: Source = KinematicsSource(topic="/joint_states", chain="arm", axis=axis)
            if name != "tip":
                default = 0.0 if name == "post" else None
                field = f"pose.position.{axis}"
                source = TopicSource(topic=f"/{name}_pose", type=POSE, frame=FRAME, field=field, default=default)
            observation.append(
                ObservationComponent(
                    name=f"{name}_{axis}",
                    unit="m",
                    source=source,
                    lower=lower - MARGIN_M,
                    upper=upper + MARGIN_M,
                    centre=centre_x if axis == "x" else 0.0,
                    scale=scale[axis],
                )
            )
    action = tuple(
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
    return PolicySpec(
        task="pushing",
        observation=tuple(observation),
        action_groups=(
            ActionGroup(
                max_speed=MAX_DRIVEN_SPEED,
                name="tool",
                kind="twist",
                components=action,
                output=Output(topic="~/command", type="geometry_msgs/msg/TwistStamped", frame=FRAME),
                on_hold="zero",
            ),
        ),
        horizon=HORIZON,
        control_rate_hz=CONTROL_RATE_HZ,
        workspace=Workspace(
            frame=FRAME,
            lower=WORK_AREA_LOWER_M,
            upper=WORK_AREA_UPPER_M,
            position_observations=("tip_x", "tip_y"),
        ),
        kinematics={"arm": arm_chain()},
    )
