"""A task: what a policy observes and commands, and, optionally, a world to try it in and an expert to learn from.

Only ``spec`` is needed to train and to deploy. A world unlocks evaluation, the demo and the benchmarks; an
expert unlocks collection; ``draw`` and ``render`` unlock figures. What a command needs and a task lacks is said
by name (``TaskError``). Tasks are found by name through the entry-point group ``srdp_controller.tasks``, or are
given as ``module:Class``, ``gymnasium:ENV_ID``, ``metaworld:NAME`` or ``replay:BAG``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from srdp_controller.errors import SrdpError
from srdp_controller.simulation.scenario import Scenario, load_scenario
from srdp_controller.simulation.world import Measured, Outcome, TopicLayout, World
from srdp_controller.spec import PolicySpec

# a task's author needs these of the simulation as well
__all__ = [
    "Expert",
    "Measured",
    "Outcome",
    "Task",
    "TaskError",
    "TopicLayout",
    "World",
    "find_task",
    "known_tasks",
    "load_object",
    "summarise",
]
GROUP = "srdp_controller.tasks"


class TaskError(SrdpError):
    """A task is not there, or lacks what a command needs."""


class Expert(Protocol):
    """Demonstrates the task."""

    def reset(self) -> None:
        """A new episode begins."""

    def act(self, truth: Any) -> np.ndarray:
        """The command (act_dim,) for a world's true state."""


class Task:
    """Base of tasks: everything but ``spec`` may be left out, and is then missed by name."""

    name: str = ""
    scenario_model: type[Scenario] = Scenario
    passive: bool = False  # its robot heeds no command, and has no spec of its own

    def spec(self) -> PolicySpec:
        """What its policies observe and command."""
        raise NotImplementedError

    def scenario(self, name_or_path: str | Path) -> Scenario:
        """A scenario of the task by name, or by path of a YAML file."""
        return load_scenario(name_or_path, self.scenario_model, self.name)

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> World:
        """A simulated robot."""
        raise self._lacks("a world", "evaluation, demo, collection and the benchmarks that need a robot")

    def expert(self, rng: np.random.Generator) -> Expert | None:
        """Somebody who demonstrates it; None where there is nobody."""
        return None

    def require_expert(self, rng: np.random.Generator) -> Expert:
        """As ``expert``.

        Raises:
            TaskError: it has none.
        """
        expert = self.expert(rng)
        if expert is None:
            raise self._lacks("an expert", "collection; name one with --expert module:Class, or bring a dataset")
        return expert

    def draw(self, axes: Any, episodes: list[dict[str, Any]]) -> None:
        """Draw episodes (success, duration_s, metrics, details) into matplotlib axes."""
        raise self._lacks("a drawing", "figures of its episodes")

    def draw_futures(self, axes: Any, observation: np.ndarray, chunks: np.ndarray, colour: str = "C0") -> None:
        """Draw where chunks (n, horizon, act_dim) would lead from an observation (obs_dim,) into matplotlib axes.

        Many are drawn faintly, one alone plainly.
        """
        raise self._lacks("a drawing", "figures of sampled futures")

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (height, width, 3) uint8 of a recorded episode's snapshots."""
        raise self._lacks("a renderer", "animations")

    def _lacks(self, part: str, needed_for: str) -> TaskError:
        return TaskError(f"task {self.name!r} has no {part.split(' ', 1)[1]}, which is needed for {needed_for}")


def known_tasks() -> list[str]:
    """Names of the installed tasks."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def find_task(name: str) -> Task:
    """A task by its name, as ``module:Class``, ``gymnasium:ENV_ID``, ``metaworld:NAME`` or ``replay:BAG``.

    Raises:
        TaskError: there is none; the message says what there is.
    """
    if name.startswith("gymnasium:"):
        from srdp_controller.tasks.gymnasium_task import GymnasiumTask

        return GymnasiumTask(name.removeprefix("gymnasium:"))
    if name.startswith("replay:"):
        from srdp_controller.tasks.replay_task import ReplayTask

        return ReplayTask(name.removeprefix("replay:"))
    if name.startswith("metaworld:"):
        from srdp_controller.tasks.metaworld_task import MetaWorldTask

        return MetaWorldTask(name.removeprefix("metaworld:"))
    if ":" in name:
        task: Task = load_object(name, "task")()
        task.name = task.name or name
        return task
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry.load()()  # type: ignore[no-any-return]
    raise TaskError(
        f"no task {name!r}; installed are: {', '.join(known_tasks()) or 'none'}; "
        "or give module:Class, gymnasium:ENV_ID, metaworld:NAME or replay:BAG"
    )


def load_object(path: str, what: str) -> Any:
    """The object that ``module:Name`` or ``path/to/file.py:Name`` stands for; the working folder is looked at too.

    Raises:
        TaskError: there is none.
    """
    module, _, attribute = path.rpartition(":")
    folder, file = Path.cwd(), Path(module).resolve() if module.endswith(".py") else None
    if file is not None:
        if not file.is_file():
            raise TaskError(f"{what} {path!r}: no file {module}")
        folder, module = file.parent, file.stem  # a name, so that other processes can import it too
    if str(folder) not in sys.path and (file is not None or "" not in sys.path):
        sys.path.insert(0, str(folder))
    try:
        imported = importlib.import_module(module)
        if file is not None and Path(imported.__file__ or "").resolve() != file:
            raise TaskError(f"{what} {path!r}: {imported.__file__} is called {module} too; rename the file")
        return getattr(imported, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskError(f"{what} {path!r}: {error}; expected module:Name of something that can be imported") from None


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Metrics over episodes: whole numbers summed, fractions averaged, words counted."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key for outcome in outcomes for key in outcome.metrics):
        values = [outcome.metrics[name] for outcome in outcomes if name in outcome.metrics]
        if all(isinstance(value, str) for value in values):
            found[name] = {str(word): values.count(word) for word in sorted(set(values), key=str)}
        elif all(isinstance(value, int) for value in values):
            found[name] = sum(int(value) for value in values)
        else:
            found[name] = float(np.mean([float(value) for value in values]))
    return found
