"""A spec and a recipe that are being written: what is known, why, and what their reader has to decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from srdp_controller.certify.conformal import trajectories_needed
from srdp_controller.errors import SpecError, all_problems
from srdp_controller.spec import PolicySpec

DECIDE = "DECIDE"  # marks a line that only the robot's owner can write
MARGIN = 0.25  # of a measured range: what lies further out is a fault of the sensor
SPAN_S = 0.4  # of a chunk
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2)


def rounded(value: float, digits: int = 4) -> float:
    """A number that a person would write."""
    return float(f"{value:.{digits}g}")


def outward(low: float, high: float, margin: float) -> tuple[float, float]:
    """Limits around a range [low, high], a share of it further out."""
    wide = margin * (high - low) or max(abs(high), 1e-3)
    return rounded(low - wide), rounded(high + wide)


@dataclass
class Draft:
    """Observation and actions as the entries of a spec's file, each part under a comment.

    Attributes:
        observation: (comment, entries).
        groups: (comment, an action group's entry; what its owner has to decide, by the group's field).
        kinematics: chains by name.
    """

    task: str
    origin: str
    rate_hz: float
    rate_from: str
    observation: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    groups: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    kinematics: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def horizon(self) -> int:
        """Steps of a chunk: ``SPAN_S``, between 4 and 32."""
        return int(min(32, max(4, round(SPAN_S * self.rate_hz))))

    def spec_text(self) -> str:
        """The spec as commented YAML.

        Raises:
            SpecError: it contradicts itself; the message lists all that does.
        """
        lines = [
            f"# What the policies of {self.task} observe and command, as `srdp init` found it in {self.origin}.",
            "# Units are SI. Numbers were measured in the data unless a comment says otherwise; lower and upper are",
            f"# {MARGIN:.0%} of the measured range further out, of actions 5%. A line with {DECIDE} is a guess for you",
            "# to judge. What no data tells is what the robot bears: set max_jerk, and lower what it bears less of.",
            *(f"# {remark}" for remark in self.remarks),
            f"task: {self.task}",
            f"control_rate_hz: {self.rate_hz:g}  # {self.rate_from}",
            f"horizon: {self.horizon}  # actions in a chunk: {self.horizon / self.rate_hz:.2g} s",
        ]
        if self.kinematics:
            lines += ["kinematics:", *(f"  {name}: {_flow(chain)}" for name, chain in self.kinematics.items())]
        lines.append("observation:")
        for comment, entries in self.observation:
            lines += [f"  # {comment}", *(f"  - {_flow(entry)}" for entry in entries)]
        lines.append("action_groups:")
        for comment, group, decide in self.groups:
            lines.append(f"  # {comment}")
            first = "  - "
            for name, value in group.items():
                if name == "components":
                    lines += [f"{first}components:", *(f"      - {_flow(one)}" for one in value)]
                else:
                    why = f"  # {DECIDE}: {decide[name]}" if name in decide else ""
                    lines.append(f"{first}{name}: {_flow(value)}{why}")
                first = "    "
        text = "\n".join(lines) + "\n"
        try:
            PolicySpec.model_validate(yaml.safe_load(text))
        except ValidationError as error:
            raise SpecError(f"no spec follows from {self.origin}: {'; '.join(all_problems(error))}") from None
        return text


def _flow(value: Any) -> str:
    """One line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def measured(values: np.ndarray, name: str, unit: str, source: dict[str, Any]) -> dict[str, Any]:
    """An observation's entry, its limits, centre and scale from values (n,)."""
    lower, upper = outward(float(values.min()), float(values.max()), MARGIN)
    scale = float(values.std())
    return {
        "name": name,
        "unit": unit,
        "source": source,
        "lower": lower,
        "upper": upper,
        "centre": rounded(float(values.mean())),
        "scale": rounded(max(scale, 1e-3 * (upper - lower))),
    }


def commanded(values: np.ndarray, name: str, unit: str, path: str) -> dict[str, Any]:
    """An action's entry: limits a twentieth of the range further out than what was commanded, values (n,)."""
    lower, upper = outward(float(values.min()), float(values.max()), 0.05)
    centre = float(values.mean())
    return {
        "name": name,
        "unit": unit,
        "field": path,
        "lower": lower,
        "upper": upper,
        "centre": rounded(centre),
        "scale": rounded(max(float(values.std()), float(np.abs(values - centre).max()) / 3.0, 1e-3 * (upper - lower))),
    }


def alphas_for(episodes: int, calibration_share: float) -> list[float]:
    """False-alarm rates that so many trajectories can calibrate; one at least, however rough."""
    held = round(calibration_share * episodes)
    return [alpha for alpha in ALPHAS if trajectories_needed(alpha) <= held] or [math.ceil(100.0 / (held + 1)) / 100.0]


def recipe_text(
    task: str, spec: str, data: dict[str, Any], episodes: int, origin: str, collect: str = "", to_decide: str = ""
) -> str:
    """A recipe as commented YAML; with a line ``collect``, and with what is to be decided of the data."""
    share = 0.3 if episodes < 200 else 0.15
    alphas = alphas_for(episodes, share)
    return "\n".join(
        [
            f"# How {task} is trained, from {origin}: `srdp check` this file, then `srdp pipeline` it",
            f"task: {task}",
            *([collect] if collect else []),
            f"data: {_flow({**data, 'spec': spec})}{f'  # {DECIDE}: {to_decide}' if to_decide else ''}",
            f"split: {_flow({'calibration_share': share, 'test_share': 0.1})}  # of {episodes} episodes",
            "teacher:",
            "  prediction: v",
            "  steps: 8000",
            "  learning_rate: 0.001",
            "distill:",
            "  students: [1, 2]",
            "  queries: 30000",
            "  chain_steps: 20  # evaluations of the teacher in each",
            "  steps: 8000",
            f"calibrate: {_flow({'alphas': alphas})}  # smaller ones need more episodes: 1 / alpha - 1 held out",
            "",
        ]
    )
