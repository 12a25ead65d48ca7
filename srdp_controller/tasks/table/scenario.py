"""What every scenario of the arm over its table has."""

from __future__ import annotations

from pydantic import Field

from srdp_controller.simulation.scenario import Actuation, Scenario, Sensor
from srdp_controller.spec import Strict

JOINT_SENSOR = Sensor(rate_hz=240.0, latency_s=0.002, noise=2e-4, quantisation=2e-5)


class ToolActuation(Actuation):
    """From a published command to the tool's motion."""

    delay_s: float = Field(default=0.02, ge=0.0)
    jitter_s: float = Field(default=0.002, ge=0.0)
    velocity_limit: float = Field(default=0.45, gt=0.0, description="tool speed limit [m/s]")
    acceleration_limit: float = Field(default=6.0, gt=0.0, description="tool acceleration limit [m/s^2]")


class Arm(Strict):
    """The arm's drives."""

    torque_scale: float = Field(default=1.0, gt=0.0, description="share of the rated joint torques")
    joint_friction: float = Field(default=0.5, ge=0.0, description="joint damping [N m s/rad]")
    payload_kg: float = Field(default=0.15, gt=0.0, description="mass of the pusher")


class TableScenario(Scenario):
    """The simulated arm."""

    actuation: ToolActuation = ToolActuation()
    arm: Arm = Arm()
