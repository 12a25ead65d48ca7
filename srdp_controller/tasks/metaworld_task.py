"""Tasks of MetaWorld (a Sawyer arm at a table, 80 Hz, 50 tasks), with the scripted experts of its own wheel."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.spec import ARRAY, PolicySpec
from srdp_controller.tasks.gymnasium_task import GymnasiumTask
from srdp_controller.tasks.task import TaskError

VERSION = "-v3"  # of the environments, at the end of their names
OBJECT = ("x", "y", "z", "q0", "q1", "q2", "q3")  # the order of the quaternion's numbers differs between the tasks
FRAME = ("hand_x", "hand_y", "hand_z", "gripper", *(f"object_{n}_{part}" for n in (1, 2) for part in OBJECT))
STATE = (*FRAME, *(f"previous_{name}" for name in FRAME), "goal_x", "goal_y", "goal_z")
REACH_M = 2.0  # a position further from the robot's foot is none: the arm reaches 1.1 m


class MetaWorldTask(GymnasiumTask):
    """``metaworld:NAME``, e.g. ``metaworld:peg-insert-side``.

    Observed is the environment's own state, of the hand [m], the gripper's opening (0 to 1), the objects [m] and the
    goal [m], now and one step (12.5 ms) before; what MetaWorld pads with zeros where a task has one object is left
    out. The goal, which its MT1 environments hide, is filled in. Commanded are the hand's displacement (1: 1 cm a
    step, which is 0.8 m/s) and the gripper (-1: open, 1: closed). On hold the hand stops and the gripper keeps what
    it has.

    Each episode draws the places of objects and goal anew. It is over with the first success, or after MetaWorld's
    500 steps (6.25 s). Everything is in steps of 12.5 ms: what a scenario delays by d takes effect with the first
    step that begins d later, or after that.

    Raises:
        TaskError: the extra ``metaworld`` is not installed, or there is no such task.
    """

    def __init__(self, name: str, horizon: int = 16) -> None:
        short = name.removesuffix(VERSION)
        self.name = f"metaworld:{short}"
        try:
            from metaworld import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise TaskError(
                f"{self.name}: {error}; install the extra: pip install 'srdp_controller[metaworld]'"
            ) from None
        if short + VERSION not in ALL_V3_ENVIRONMENTS:
            known = ", ".join(sorted(key.removesuffix(VERSION) for key in ALL_V3_ENVIRONMENTS))
            raise TaskError(f"{self.name}: MetaWorld has no such task; there are: {known}")
        self._environment, self._policy = ALL_V3_ENVIRONMENTS[short + VERSION], ENV_POLICY_MAP[short + VERSION]
        super().__init__(short + VERSION, horizon=horizon)
        self._has_limit = True

    def _make(self, render_mode: str | None = None) -> Any:
        env = self._environment(render_mode=render_mode, camera_name="corner2")
        self._padding = () if len(env._get_pos_objects()) > 3 else ("object_2_", "previous_object_2_")
        return _SeededEnv(env)

    def spec(self) -> PolicySpec:
        """The state without the padding, and the displacement and the gripper as a group each."""
        observation = []
        for place, name in enumerate(STATE):
            if not name.startswith(self._padding):
                source = {"kind": "topic", "topic": "/observation", "type": ARRAY, "field": f"data[{place}]"}
                observation.append({"name": name, "source": source, **_range(name)})
        groups = [
            _group("hand", "generic", ("dx", "dy", "dz"), "~/command", "zero"),
            _group("gripper", "gripper", ("gripper",), "~/gripper", "last"),
        ]
        return PolicySpec.model_validate(
            {
                "task": self.name,
                "observation": observation,
                "action_groups": groups,
                "horizon": self._horizon,
                "control_rate_hz": self._rate_hz,
            }
        )

    def expert(self, rng: np.random.Generator) -> MetaWorldExpert:
        """The wheel's scripted policy."""
        return MetaWorldExpert(self._policy())

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (480, 480, 3) uint8.

        Raises:
            TaskError: MuJoCo finds no way to draw.
        """
        try:
            return super().render(scenario, details, snapshots)
        except Exception as error:  # each of its back ends raises others
            raise TaskError(
                f"{self.name}: MuJoCo cannot draw here ({type(error).__name__}: {error}); without a display set "
                "MUJOCO_GL=egl (a graphics driver) or MUJOCO_GL=osmesa (libOSMesa)"
            ) from None


class MetaWorldExpert:
    """One of MetaWorld's scripted policies: a function of the observation, the goal included."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self, truth: Mapping[str, Any]) -> np.ndarray:
        """The command (4,), clipped as the environment would."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it asks for more than 1
            return np.clip(self._policy.get_action(truth["observation"]), -1.0, 1.0)


class _SeededEnv(gymnasium.Wrapper[Any, Any, Any, Any]):  # type: ignore[misc]
    """A MetaWorld environment that shows its goal and draws each episode's layout from the seed of its reset."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        env._set_task_called = env.seeded_rand_vec = True
        env._freeze_rand_vec = env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)  # made without the goal, to which step() would clip it

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """MetaWorld's own ignores the seed."""
        if seed is not None:
            self.unwrapped.seed(seed)
        return self.env.reset()

    def step(self, action: Any) -> Any:
        """MetaWorld's own shows nothing to a human."""
        found = self.env.step(action)
        if self.render_mode == "human":
            self.env.render()
        return found


def _range(name: str) -> dict[str, Any]:
    """Unit, limits and scale of a component; a recipe takes centre and scale from the data."""
    if name.endswith("gripper"):
        return {"unit": "1", "lower": -0.5, "upper": 1.5, "centre": 0.5, "scale": 0.5}
    if name.endswith(("_x", "_y", "_z")):
        return {"unit": "m", "lower": -REACH_M, "upper": REACH_M, "scale": 0.25}
    return {"unit": "1", "lower": -1.5, "upper": 1.5}


def _group(name: str, kind: str, components: tuple[str, ...], topic: str, on_hold: str) -> dict[str, Any]:
    entries = [
        {"name": component, "unit": "1", "field": f"data[{place}]", "lower": -1.0, "upper": 1.0}
        for place, component in enumerate(components)
    ]
    return {
        "name": name,
        "kind": kind,
        "components": entries,
        "output": {"topic": topic, "type": ARRAY},
        "on_hold": on_hold,
    }
