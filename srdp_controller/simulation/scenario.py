"""Scenarios: every imperfection of the simulated robot, one YAML file each (``sim/scenarios``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srdp_controller.errors import ScenarioError
from srdp_controller.resources import find_resource


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Actuation(_Model):
    """From a published command to the arm's motion."""

    delay_s: float = Field(default=0.05, ge=0.0, description="time before a command takes effect")
    jitter_s: float = Field(default=0.005, ge=0.0, description="standard deviation of that delay")
    loss: float = Field(default=0.0, ge=0.0, le=1.0, description="probability that a command is lost")
    hold_s: float = Field(default=0.3, gt=0.0, description="the arm stops when no command came for so long")
    velocity_limit: float = Field(default=0.25, gt=0.0, description="tool speed limit [m/s]")
    acceleration_limit: float = Field(default=2.5, gt=0.0, description="tool acceleration limit [m/s^2]")


class Arm(_Model):
    """The arm's drives."""

    torque_scale: float = Field(default=1.0, gt=0.0, description="share of the rated joint torques")
    joint_friction: float = Field(default=0.5, ge=0.0, description="joint damping [N m s/rad]")
    payload_kg: float = Field(default=0.15, gt=0.0, description="mass of the pusher")


class Sensor(_Model):
    """One measured stream."""

    rate_hz: float = Field(gt=0.0)
    latency_s: float = Field(default=0.0, ge=0.0, description="from measurement to publication")
    noise: float = Field(default=0.0, ge=0.0, description="standard deviation (rad for joints, m for poses)")
    bias: float = Field(default=0.0, ge=0.0, description="standard deviation of a constant offset per episode")
    quantisation: float = Field(default=0.0, ge=0.0, description="step of the digitised value")
    drop: float = Field(default=0.0, ge=0.0, le=1.0, description="probability that a message is lost")


class Payload(_Model):
    """The pushed box."""

    mass_kg: float = Field(default=0.3, gt=0.0)
    friction: float = Field(default=0.45, gt=0.0, description="Coulomb coefficient box to table")
    tip_friction: float = Field(default=0.25, gt=0.0)


class Rectangle(_Model):
    """A rectangle of the table [m]."""

    x: tuple[float, float]
    y: tuple[float, float]


class Region(_Model):
    """One combination of where the box starts and where its goal lies."""

    start: Rectangle
    goal: Rectangle


class Layout(_Model):
    """Where things stand at the start of an episode; a region is drawn uniformly."""

    regions: tuple[Region, ...] = (
        Region(start=Rectangle(x=(-0.17, -0.13), y=(-0.06, 0.06)), goal=Rectangle(x=(0.13, 0.17), y=(-0.06, 0.06))),
    )
    excluded: tuple[Region, ...] = Field(
        default=(), description="combinations of start and goal that are never drawn (coverage holes)"
    )
    post: Rectangle = Rectangle(x=(-0.01, 0.01), y=(-0.01, 0.01))
    tip: Rectangle = Rectangle(x=(-0.23, -0.21), y=(-0.05, 0.05))


class SensorFault(_Model):
    """What one sensor stream does wrong for a while, in every episode."""

    stream: Literal["joint_states", "object_pose"]
    kind: Literal[
        "silent",
        "frozen",
        "nan",
        "infinite",
        "out_of_range",
        "truncated",
        "stale",
        "future",
        "duplicated",
        "reordered",
    ]
    start_s: float = Field(ge=0.0, description="time of the episode")
    duration_s: float = Field(gt=0.0)


class Scenario(_Model):
    """All parameters of the simulated robot."""

    name: str
    description: str = ""
    actuation: Actuation = Actuation()
    arm: Arm = Arm()
    joint_states: Sensor = Sensor(rate_hz=240.0, latency_s=0.002, noise=2e-4, quantisation=2e-5)
    object_pose: Sensor = Sensor(rate_hz=60.0, latency_s=0.03, noise=1e-3, quantisation=1e-4)
    payload: Payload = Payload()
    layout: Layout = Layout()
    faults: tuple[SensorFault, ...] = Field(default=(), description="what the sensors do wrong, and when")
    time_limit_s: float = Field(default=20.0, gt=0.0)
    success_radius_m: float = Field(default=0.025, gt=0.0)


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Scenario by name (``nominal``) or by path of a YAML file.

    Raises:
        ScenarioError: no such scenario, or a field is unknown or out of range.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        folder = find_resource("sim/scenarios")
        path = folder / f"{name_or_path}.yaml"
        if not path.exists():
            names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise ScenarioError(
                f"no scenario {str(name_or_path)!r}; there are: {names}, or give a path to a .yaml file"
            )
    try:
        content = yaml.safe_load(path.read_text())
        return Scenario.model_validate(content)
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(f"{path}: field {where}: {first['msg']} (got {first.get('input')!r})") from None


class EpisodeLayout(_Model):
    """Positions drawn for one episode [m] and the box's yaw [rad]."""

    box: tuple[float, float]
    box_yaw: float
    goal: tuple[float, float]
    post: tuple[float, float]
    tip: tuple[float, float]


def _inside(point: np.ndarray, rectangle: Rectangle) -> bool:
    return bool(rectangle.x[0] <= point[0] <= rectangle.x[1] and rectangle.y[0] <= point[1] <= rectangle.y[1])


def draw_layout(layout: Layout, rng: np.random.Generator) -> EpisodeLayout:
    """Draw an episode's layout; excluded combinations are drawn again."""

    def point(rectangle: Rectangle) -> np.ndarray:
        return np.array([rng.uniform(*rectangle.x), rng.uniform(*rectangle.y)])

    for _ in range(10_000):
        region = layout.regions[int(rng.integers(len(layout.regions)))]
        box, goal = point(region.start), point(region.goal)
        if any(_inside(box, hole.start) and _inside(goal, hole.goal) for hole in layout.excluded):
            continue
        post, tip = point(layout.post), point(layout.tip)
        return EpisodeLayout(
            box=tuple(box), box_yaw=float(rng.uniform(-0.3, 0.3)), goal=tuple(goal), post=tuple(post), tip=tuple(tip)
        )
    raise ScenarioError("layout.excluded covers every region: nothing can be drawn")
