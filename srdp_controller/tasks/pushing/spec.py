"""The pushing task's ``PolicySpec``: which topics it observes and what it commands.

| index | observation | source |
| --- | --- | --- |
| 0, 1 | pusher tip x, y | ``/joint_states`` through the arm's forward kinematics |
| 2, 3 | box x, y | ``/object_pose`` |
| 4, 5 | goal x, y | ``/goal_pose`` |
| 6, 7 | post x, y | ``/post_pose``, optional: a fixture, at its nominal place until told otherwise |
"""

from __future__ import annotations

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

HORIZON = 8
CONTROL_RATE_HZ = 20.0
MAX_TIP_SPEED = 0.25
FRAME = "table"
POSE = "geometry_msgs/msg/PoseStamped"
WORK_AREA_LOWER_M = (-0.26, -0.17)
WORK_AREA_UPPER_M = (0.26, 0.17)
MARGIN_M = 0.25  # a measured position that far outside the work area is a fault, not a state


def pushing_spec() -> PolicySpec:
    """Specification of the pushing task (observation (8,), action chunk (8, 2))."""

    def position(topic: str, axis: str, default: float | None = None) -> Source:
        return TopicSource(topic=topic, type=POSE, frame=FRAME, field=f"pose.position.{axis}", default=default)

    sources: list[tuple[str, str, Source]] = []
    for axis in ("x", "y"):
        sources.append((f"tip_{axis}", axis, KinematicsSource(topic="/joint_states", chain="arm", axis=axis)))
    for name in ("object", "goal"):
        for axis in ("x", "y"):
            sources.append((f"{name}_{axis}", axis, position(f"/{name}_pose", axis)))
    for axis in ("x", "y"):
        sources.append((f"post_{axis}", axis, position("/post_pose", axis, default=0.0)))
    scales = {"tip_x": 0.15, "object_x": 0.12, "goal_x": 0.03, "post_x": 0.02, "goal_y": 0.05, "post_y": 0.02}
    centres = {"goal_x": 0.15}
    observation = []
    for index, (name, axis, source) in enumerate(sources):
        number = "xy".index(axis)
        observation.append(
            ObservationComponent(
                name=name,
                unit="m",
                index=index,
                source=source,
                lower=WORK_AREA_LOWER_M[number] - MARGIN_M,
                upper=WORK_AREA_UPPER_M[number] + MARGIN_M,
                centre=centres.get(name, 0.0),
                scale=scales.get(name, 0.08),
            )
        )
    action = tuple(
        ActionComponent(
            name=f"tip_velocity_{axis}",
            unit="m/s",
            index=index,
            field=f"twist.linear.{axis}",
            lower=-MAX_TIP_SPEED,
            upper=MAX_TIP_SPEED,
            centre=0.0,
            scale=0.1,
        )
        for index, axis in enumerate(("x", "y"))
    )
    return PolicySpec(
        task="pushing",
        observation=tuple(observation),
        action_groups=(
            ActionGroup(
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
