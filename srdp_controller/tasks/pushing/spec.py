"""The pushing task's ``PolicySpec``: which topics it observes and what it commands.

| index | observation | source |
| --- | --- | --- |
| 0, 1 | pusher tip x, y | ``/joint_states`` through the arm's forward kinematics |
| 2, 3 | object x, y | ``/object_pose`` |
| 4, 5 | goal x, y | ``/goal_pose`` |
| 6, 7 | post x, y | ``/post_pose``, optional: a fixture, at its nominal place until told otherwise |
"""

from __future__ import annotations

from srdp_controller.spec import PolicySpec, TopicSource
from srdp_controller.tasks.table import spec as table
from srdp_controller.tasks.table.arm import arm_chain

HORIZON = 16
CONTROL_RATE_HZ = 40.0
MAX_DRIVEN_SPEED = 0.22  # at the demonstrations' own speed the disc bears hardly any delay
POSE = "geometry_msgs/msg/PoseStamped"


def pushing_spec() -> PolicySpec:
    """Specification of the pushing task (observation (8,), action chunk (16, 2))."""
    observation = [*table.tip()]
    for name, centre_x, scales, default in (
        ("object", 0.0, (0.12, 0.08), None),
        ("goal", 0.15, (0.03, 0.05), None),
        ("post", 0.0, (0.02, 0.02), 0.0),
    ):
        for number, (axis, scale) in enumerate(zip(table.AXES, scales, strict=True)):
            field = f"pose.position.{axis}"
            source = TopicSource(topic=f"/{name}_pose", type=POSE, frame=table.FRAME, field=field, default=default)
            observation.append(table.coordinate(name, number, source, centre_x if axis == "x" else 0.0, scale))
    return PolicySpec(
        task="pushing",
        observation=tuple(observation),
        action_groups=(table.tool(MAX_DRIVEN_SPEED),),
        horizon=HORIZON,
        control_rate_hz=CONTROL_RATE_HZ,
        workspace=table.WORKSPACE,
        kinematics={"arm": arm_chain()},
    )
