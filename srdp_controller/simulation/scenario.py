"""Scenarios: every imperfection of a simulated robot, one YAML file each (``sim/scenarios/TASK``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from srdp_controller.errors import ScenarioError, SrdpError, first_problem
from srdp_controller.resources import find_resource
from srdp_controller.spec import Strict


class Actuation(Strict):
    """From a published command to the robot's drives."""

    delay_s: float = Field(default=0.0, ge=0.0, description="time before a command takes effect")
    jitter_s: float = Field(default=0.0, ge=0.0, description="standard deviation of that delay")
    loss: float = Field(default=0.0, ge=0.0, le=1.0, description="probability that a command is lost")
    hold_s: float = Field(
        default=0.3, gt=0.0, description="when no command came for so long, the robot does by itself what on_hold says"
    )


class Sensor(Strict):
    """One measured stream."""

    rate_hz: float = Field(gt=0.0)
    latency_s: float = Field(default=0.0, ge=0.0, description="from measurement to publication")
    noise: float = Field(default=0.0, ge=0.0, description="standard deviation, in the unit of what is measured")
    bias: float = Field(default=0.0, ge=0.0, description="standard deviation of a constant offset per episode")
    quantisation: float = Field(default=0.0, ge=0.0, description="step of the digitised value")
    drop: float = Field(default=0.0, ge=0.0, le=1.0, description="probability that a message is lost")


class SensorFault(Strict):
    """What one sensor stream does wrong for a while, in every episode."""

    stream: str = Field(description="its topic; the slash in front may be left out")
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

    @property
    def topic(self) -> str:
        """The topic that it befalls."""
        return "/" + self.stream.lstrip("/")


class Scenario(Strict):
    """The imperfections of any simulated robot; a task may have more (``Task.scenario_model``)."""

    name: str
    description: str = ""
    actuation: Actuation = Actuation()
    sensors: dict[str, Sensor] = Field(
        default_factory=dict, description="by topic; what is not named is measured exactly, in every tick"
    )
    faults: tuple[SensorFault, ...] = Field(default=(), description="what the sensors do wrong, and when")
    time_limit_s: float | None = Field(default=None, gt=0.0, description="of an episode; None: the world's own")

    def check_topics(self, topics: list[str]) -> None:
        """See that every sensor and fault belongs to a topic of the world.

        Raises:
            ScenarioError: one does not.
        """
        for what, named in (("sensors", list(self.sensors)), ("faults", [fault.topic for fault in self.faults])):
            for topic in named:
                if topic not in topics:
                    raise ScenarioError(
                        f"scenario {self.name}: {what}: no topic {topic!r}; there are: {', '.join(topics)}"
                    )

    def delayed(self, seconds: float) -> Scenario:
        """This scenario with so much more delay between a command and its effect; 0 changes nothing."""
        actuation = self.actuation.model_copy(update={"delay_s": self.actuation.delay_s + seconds})
        return self.model_copy(update={"actuation": actuation})

    def without(self, hole: Scenario) -> Scenario:
        """This scenario less the starts that ``hole`` draws (what a dataset leaves out)."""
        raise ScenarioError(f"scenario {hole.name}: this task has no layouts that could be left out of a dataset")


AnyScenario = TypeVar("AnyScenario", bound=Scenario)


def slug(task_name: str) -> str:
    """A task's name as the name of a folder or of a dataset: ``gymnasium:Pendulum-v1`` as ``gymnasium-Pendulum-v1``."""
    return re.sub(r"[^-\w]+", "-", task_name).strip("-")


def load_scenario(name_or_path: str | Path, model: type[AnyScenario], task_name: str) -> AnyScenario:
    """Scenario by name (a file of ``sim/scenarios/TASK``) or by path of a YAML file.

    ``nominal`` needs no file: it stands for the model's defaults, so that every task has one.

    Raises:
        ScenarioError: no such scenario, or a field is unknown or out of range.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        try:
            folder = find_resource(f"sim/scenarios/{slug(task_name)}")
        except SrdpError:  # a task need not bring any
            folder = Path()
        path = folder / f"{name_or_path}.yaml"
        if not path.exists():
            if str(name_or_path) == "nominal":
                return model(name="nominal")
            names = sorted({"nominal", *(file.stem for file in folder.glob("*.yaml") if folder != Path())})
            raise ScenarioError(
                f"task {task_name!r} has no scenario {str(name_or_path)!r}; there are: {', '.join(names)}, "
                "or give a path to a .yaml file"
            )
    try:
        return model.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise ScenarioError(f"{path}: {first_problem(error)}") from None
