import numpy as np
import pytest

pytest.importorskip("pybullet", reason="the physics engine is not here: make setup")

from srdp_controller.kinematics import ForwardKinematics
from srdp_controller.tasks.pushing.task import PushingTask
from srdp_controller.tasks.table.arm import arm_chain


def test_tip_position_is_that_of_the_physics_engine():
    task = PushingTask()
    world = task.make_world(task.scenario("nominal"))
    kinematics = ForwardKinematics(arm_chain())
    for x, y in ((-0.2, 0.1), (0.0, 0.0), (0.2, -0.12)):
        world.arm.place(x, y)
        angles = world.arm.joint_positions()
        assert kinematics.tip_position(angles)[:2] == pytest.approx(world.arm.tip_position(), abs=1e-6)
        assert np.hypot(x - world.arm.tip_position()[0], y - world.arm.tip_position()[1]) < 2e-3
    world.close()
