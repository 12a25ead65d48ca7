"""The pushing world as a Gymnasium environment: seeded, deterministic, faster than real time."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from srdp_controller.observation import ObservationAssembler
from srdp_controller.simulation.scenario import Scenario, load_scenario
from srdp_controller.simulation.sensors import Measurement
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.spec import pushing_spec
from srdp_controller.tasks.pushing.world import PHYSICS_RATE_HZ, PushingWorld


class ObservedWorld:
    """A ``PushingWorld`` seen through its sensors: the observation that the controller would see."""

    def __init__(self, scenario: Scenario, gui: bool = False, spec: PolicySpec | None = None) -> None:
        self.world = PushingWorld(scenario, gui)
        self.assembler = ObservationAssembler(spec if spec is not None else pushing_spec())
        self._ages_s = [age * 1e-9 for age in dict.fromkeys(self.assembler.history_ages_ns)]
        self._sent: list[tuple[float, tuple[float, float]]] = []

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode and wait until every sensor has spoken once."""
        self.world.reset(rng)
        self.assembler.reset()
        self._sent.clear()
        layout = self.world.layout
        self.assembler.update("/goal_pose", layout.goal, 0)
        self.assembler.update("/post_pose", layout.post, 0)
        while self.assembler.missing():
            self.step()

    def step(self) -> None:
        """One physics step, then take what the sensors published."""
        self.world.step()
        for joints in self.world.joint_measurements():
            self._take("/joint_states", joints, len(self.world.arm.joints))
        for pose in self.world.object_measurements():
            self._take("/object_pose", pose, 3)

    def _take(self, topic: str, measurement: Measurement, size: int) -> None:
        """Take a measurement, unless it is one that the controller's node refuses by its shape or its stamp."""
        if len(measurement.values) == size and measurement.measured_s <= self.world.time_s + 1e-9:
            self.assembler.update(topic, measurement.values.tolist(), round(measurement.measured_s * 1e9))

    def send(self, command: tuple[float, float]) -> None:
        """Send a planar velocity command [m/s], and remember it for the observation's past commands."""
        self.world.send(command)
        if self._ages_s:
            self._sent.append((self.world.time_s, command))

    def _command_at(self, time_s: float) -> tuple[float, float]:
        for sent_s, command in reversed(self._sent):
            if sent_s <= time_s + 1e-9:
                return command
        return (0.0, 0.0)

    @property
    def observation(self) -> np.ndarray:
        """Observation (obs_dim,) float32, raw SI units."""
        self.assembler.remember(round(self.world.time_s * 1e9))
        if self._ages_s:
            now = self.world.time_s
            self.assembler.set_history({round(age * 1e9): self._command_at(now - age) for age in self._ages_s})
        return self.assembler.vector.copy()


class PushingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Push a box round a post to a goal.

    Observation (8,) float32 [m] and action (2,) float32 [m/s] as in ``pushing_task``; reward 1 on
    success, else 0; terminated on success, truncated at the scenario's time limit.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        scenario: str | Scenario = "nominal",
        control_rate_hz: float = 20.0,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(scenario, str):
            scenario = load_scenario(scenario)
        self.render_mode = render_mode
        self.observed = ObservedWorld(scenario)
        self._steps_per_action = max(1, round(PHYSICS_RATE_HZ / control_rate_hz))
        spec = self.observed.assembler.spec
        self.observation_space = gymnasium.spaces.Box(
            np.array([component.lower for component in spec.observation], dtype=np.float32),
            np.array([component.upper for component in spec.observation], dtype=np.float32),
        )
        low, high = spec.action_limits()
        self.action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))

    @property
    def world(self) -> PushingWorld:
        """The physics behind the sensors."""
        return self.observed.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; returns the first observation and an empty info."""
        super().reset(seed=seed)
        self.observed.reset(self.np_random)
        return self.observed.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Send the command and run one control period."""
        self.world.send((float(action[0]), float(action[1])))
        for _ in range(self._steps_per_action):
            self.observed.step()
        outcome = self.world.outcome
        terminated = outcome.success
        truncated = outcome.finished and not outcome.success
        return self.observed.observation, float(terminated), terminated, truncated, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Picture (height, width, 3) uint8."""
        return self.world.render()

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.world.close()


gymnasium.register("srdp_controller/Pushing-v0", entry_point="srdp_controller.tasks.pushing.env:PushingEnv")
