"""A task of any Gymnasium environment with Box observations (or a Dict of Boxes) and a Box action."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.spec import ARRAY, PolicySpec
from srdp_controller.tasks.task import Task, TaskError

UNBOUNDED = 1e6  # a Box without a finite limit has this one
MARGIN = 0.25  # of an observation's range: noise may carry a measurement past the Box's limits
LONGEST = 1000  # steps of an episode where neither the environment nor the scenario has a limit


class GymnasiumTask(Task):
    """``gymnasium:ENV_ID``; a subclass with other arguments is a task ``module:Class`` of its own.

    Each Box of the observation is one topic (``/observation``, or ``/KEY``), a ``Float64MultiArray`` in the order
    of ``ravel()``; the action is one ``generic`` group on ``~/command``, zero on hold where the Box holds zero,
    else as near to zero as it allows. Limits, centres and scales are the Box's where it is finite (an
    observation's limits with a margin of 25 % of its range), else +-1e6, 0 and 1: a recipe can take centre and
    scale from the dataset (``normalise: data``).

    A tick is one step of the environment. An episode succeeds, and ends, when the environment's ``info`` says
    ``success`` or ``is_success``; where it never says so, an episode that has ended succeeded if its return is at
    least ``success_return``; where that is not known either, nothing is judged (``Outcome.judged``). The metric
    ``return`` is always there. ``truth`` is ``{"observation": the raw one, "env": the environment}``.

    Args:
        env_id: of Gymnasium's registry, or ``module:ENV_ID`` where a module registers it.
        control_rate_hz: None: the environment's own, from its ``dt`` or its ``render_fps``.
        horizon: actions in one chunk.
        success_return: None: the ``reward_threshold`` that the environment is registered with, if any.

    Raises:
        TaskError: there is no such environment, or a space is no Box, or nothing tells its rate.
    """

    def __init__(
        self,
        env_id: str,
        control_rate_hz: float | None = None,
        horizon: int = 8,
        success_return: float | None = None,
    ) -> None:
        self.name = self.name or f"gymnasium:{env_id}"
        self._env_id, self._horizon = env_id, horizon
        env = self._make()
        self._boxes = _boxes(self.name, env.observation_space)
        self._action = env.action_space
        if not isinstance(self._action, Box):
            raise TaskError(f"{self.name}: its action is {self._action}; expected a Box")
        period = getattr(env.unwrapped, "dt", None)
        rate = control_rate_hz or (1.0 / period if period else env.metadata.get("render_fps"))
        if not rate:
            raise TaskError(f"{self.name}: neither dt nor render_fps tells its rate; subclass with control_rate_hz=...")
        self._rate_hz = float(rate)
        registered = env.spec
        self._has_limit = registered is not None and registered.max_episode_steps is not None
        self._success_return = success_return
        if success_return is None and registered is not None:
            self._success_return = registered.reward_threshold
        env.close()

    def _make(self, render_mode: str | None = None) -> Any:
        try:
            return gymnasium.make(self._env_id, render_mode=render_mode)
        except (gymnasium.error.Error, ImportError) as error:
            raise TaskError(f"{self.name}: {error}") from None

    def spec(self) -> PolicySpec:
        """What the spaces say."""
        observation, components = [], []
        for topic, box in self._boxes.items():
            for place, entry in enumerate(_entries(box)):
                margin = MARGIN * (entry["upper"] - entry["lower"]) if entry["lower"] > -UNBOUNDED else 0.0
                entry |= {"lower": entry["lower"] - margin, "upper": entry["upper"] + margin}
                source = {"kind": "topic", "topic": topic, "type": ARRAY, "field": f"data[{place}]"}
                observation.append({"name": f"{topic[1:]}_{place}", "unit": "1", "source": source, **entry})
        for place, entry in enumerate(_entries(self._action)):
            components.append({"name": f"action_{place}", "unit": "1", "field": f"data[{place}]", **entry})
        hold = [min(max(0.0, entry["lower"]), entry["upper"]) for entry in _entries(self._action)]
        group = {
            "name": "action",
            "kind": "generic",
            "components": components,
            "output": {"topic": "~/command", "type": ARRAY},
            "on_hold": tuple(hold) if any(hold) else "zero",
        }
        return PolicySpec.model_validate(
            {
                "task": self.name,
                "observation": observation,
                "action_groups": [group],
                "horizon": self._horizon,
                "control_rate_hz": self._rate_hz,
            }
        )

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> GymnasiumWorld:
        """The environment behind the scenario's sensors and actuators."""
        if scenario.time_limit_s is None and not self._has_limit:
            scenario = scenario.model_copy(update={"time_limit_s": LONGEST / self._rate_hz})
        env = self._make("human" if gui else None)
        topics = {
            topic: TopicLayout(ARRAY, tuple(f"data[{place}]" for place in range(math.prod(box.shape))))
            for topic, box in self._boxes.items()
        }
        return GymnasiumWorld(env, scenario, self.spec(), topics, self._success_return, seed)

    def draw(self, axes: Any, episodes: list[dict[str, Any]]) -> None:
        """The episodes' returns."""
        axes.bar(range(len(episodes)), [episode["metrics"]["return"] for episode in episodes])
        axes.set(xlabel="episode", ylabel="return", title=self.name)

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (height, width, 3) uint8: the environment draws the episode while its actions are repeated."""
        env = self._make("rgb_array")
        env.reset(seed=details["seed"])
        done, pictures = 0, []
        for (step,) in snapshots:
            for action in details["actions"][done : int(step)]:
                env.step(np.array(action, dtype=self._action.dtype).reshape(self._action.shape))
            done = max(done, int(step))
            pictures.append(np.asarray(env.render(), dtype=np.uint8))
        env.close()
        return pictures


def _boxes(name: str, space: Any) -> dict[str, Box]:
    """The Boxes of an observation space, by topic."""
    parts = space.spaces if isinstance(space, Dict) else {"observation": space}
    found = {}
    for key, box in parts.items():
        if not isinstance(box, Box) or len(box.shape) > 2:
            raise TaskError(f"{name}: its observation {key!r} is {box}; expected a Box of numbers, not a picture")
        found["/" + re.sub(r"\W+", "_", key)] = box
    return found


def _entries(box: Box) -> list[dict[str, float]]:
    """Limits, centre and scale of each entry of a Box."""
    found = []
    for low, high in zip(box.low.ravel().tolist(), box.high.ravel().tolist(), strict=True):
        if -UNBOUNDED < low < high < UNBOUNDED:
            found.append({"lower": low, "upper": high, "centre": (low + high) / 2, "scale": (high - low) / 2})
        else:
            found.append({"lower": -UNBOUNDED, "upper": UNBOUNDED, "centre": 0.0, "scale": 1.0})
    return found


class GymnasiumWorld(SimulatedWorld):
    """One environment; a tick is one step of it, a snapshot the number of steps done."""

    def __init__(
        self,
        env: Any,
        scenario: Scenario,
        spec: PolicySpec,
        topics: Mapping[str, TopicLayout],
        success_return: float | None,
        seed: int = 0,
    ) -> None:
        self.env = env
        self._success_return = success_return
        super().__init__(scenario, spec, topics, spec.step_s, seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        seed = int(rng.integers(2**31))
        self._raw, self._info = self.env.reset(seed=seed)
        self._over = False
        return Outcome(
            metrics={"return": 0.0},
            details={"seed": seed, "actions": []},
            judged=self._success_return is not None,
        )

    def _advance(self, command: Sequence[float]) -> None:
        if self._over or self.outcome.finished:  # an environment must not be stepped past its end
            return
        space = self.env.action_space
        action = np.clip(np.array(command, dtype=space.dtype).reshape(space.shape), space.low, space.high)
        self._raw, reward, terminated, truncated, self._info = self.env.step(action)
        self._over = bool(terminated or truncated)
        self.outcome.failed = bool(terminated)  # unless it was success
        self.outcome.metrics["return"] = float(self.outcome.metrics["return"]) + float(reward)
        self.outcome.details["actions"].append(action.ravel().tolist())

    def _true_values(self, topic: str) -> Sequence[float]:
        raw = self._raw
        if isinstance(raw, Mapping):
            raw = next(value for key, value in raw.items() if "/" + re.sub(r"\W+", "_", key) == topic)
        return np.asarray(raw, dtype=np.float64).ravel().tolist()

    def _judge(self) -> None:
        outcome = self.outcome
        said = self._info.get("success", self._info.get("is_success"))
        if said is not None:
            outcome.judged, outcome.success = True, bool(said)
        outcome.finished = outcome.finished or self._over or outcome.success
        if said is None and outcome.finished and self._success_return is not None:
            outcome.success = float(outcome.metrics["return"]) >= self._success_return
        outcome.failed = outcome.failed and not outcome.success

    @property
    def truth(self) -> dict[str, Any]:
        """The raw observation, and the environment itself."""
        return {"observation": self._raw, "env": self.env}

    def snapshot(self) -> list[float]:
        """The number of steps done, from which the task's ``render`` finds the picture."""
        return [float(len(self.outcome.details["actions"]))]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
