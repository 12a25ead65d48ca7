"""A draft from observations and actions without topics: a LeRobot, Minari or D4RL dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from srdp_controller.offline.init.draft import Draft, commanded, measured
from srdp_controller.spec import ARRAY

OBSERVATION = "/observation"


def draft_from_arrays(
    task: str,
    origin: str,
    observation: np.ndarray,
    action: np.ndarray,
    observation_names: Sequence[str],
    action_names: Sequence[str],
    rate_hz: float,
    rate_from: str,
) -> Draft:
    """A spec's draft from observations (n, obs) and actions (n, act).

    What is observed is taken to come as one array, in the dataset's order: which topics of the robot those are, no
    dataset says.
    """
    draft = Draft(task, origin, rate_hz, rate_from)
    draft.remarks = [
        f"The dataset names no topics: everything is read from {OBSERVATION} and commanded on ~/command. Name your",
        "robot's own topics, types and fields in their place (docs/own_task.md); training needs no more than this.",
    ]
    kept = [number for number in range(observation.shape[1]) if np.ptp(observation[:, number]) > 1e-9]
    constant = [observation_names[number] for number in range(observation.shape[1]) if number not in kept]
    names = _unique(observation_names)
    entries = [
        measured(
            observation[:, number],
            names[number],
            "1",
            {"topic": OBSERVATION, "type": ARRAY, "field": f"data[{number}]"},
        )
        for number in range(observation.shape[1])
    ]
    told = f"; never change in the data: {', '.join(constant)}" if constant else ""
    draft.observation = [(f"{len(entries)} numbers{told}", entries)]
    commands = _unique(action_names)
    components = [
        commanded(action[:, number], commands[number], "1", f"data[{number}]") for number in range(action.shape[1])
    ]
    decide = {
        "kind": "joint_position, joint_velocity, joint_effort, gripper or generic (docs/own_task.md)",
        "on_hold": "what stops the robot: zero, last, measured, or a value",
    }
    output = {"topic": "~/command", "type": ARRAY}
    group = {"name": "command", "kind": "generic", "on_hold": "last", "output": output, "components": components}
    draft.groups = [(f"{len(components)} numbers", group, decide)]
    return draft


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W+", "_", name).strip("_") or "value"
        number, one = 2, plain
        while one in found:
            one, number = f"{plain}_{number}", number + 1
        found.append(one)
    return found
