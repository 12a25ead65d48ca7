"""PushT of gym-pusht (Chi et al., 2023): a round pusher brings a T-shaped block into its place.

| place in ``/state`` | observation |
| --- | --- |
| 0, 1 | the pusher's x, y [m] |
| 2, 3 | the block's x, y [m] |
| 4, 5 | cosine and sine of the block's angle |

Commanded is the target (2,) [m] that the pusher is drawn towards, as in the environment. A pixel is taken for 1 mm.
The environment is stepped 100 times a second, so that a loop of any rate can drive what is commanded 10 times a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.spec import ARRAY, PolicySpec
from srdp_controller.tasks.pusht.expert import PushTExpert, PushTTruth
from srdp_controller.tasks.pusht.simulation import SIZE_M, TICK_S, PushTSimulation, placed
from srdp_controller.tasks.task import Task

STATE = ("agent_x", "agent_y", "block_x", "block_y", "block_cos", "block_sin")
TOPIC = "/state"
MARGIN_M = 0.1  # a measured position that far outside is a fault, not a state
HORIZON = 16
CONTROL_RATE_HZ = 10.0
SUCCESS = 0.95  # share of its place that the block covers
TIME_LIMIT_S = 40.0
JUDGED_EVERY = 10  # ticks


class PushTTask(Task):
    """Push the T into its place."""

    name = "pusht"

    def spec(self) -> PolicySpec:
        """Observation (6,), action chunk (16, 2) [m]."""
        half = SIZE_M / 2
        position = {"unit": "m", "lower": -MARGIN_M, "upper": SIZE_M + MARGIN_M, "centre": half, "scale": half / 2}
        turn = {"unit": "1", "lower": -1.5, "upper": 1.5}
        observation = [
            {
                "name": name,
                "source": {"kind": "topic", "topic": TOPIC, "type": ARRAY, "field": f"data[{place}]"},
                **(position if name.endswith(("_x", "_y")) else turn),
            }
            for place, name in enumerate(STATE)
        ]
        target = {"unit": "m", "lower": 0.0, "upper": SIZE_M, "centre": half, "scale": half / 2}
        components = [
            {"name": f"target_{axis}", "field": f"data[{place}]", "measured_by": f"agent_{axis}", **target}
            for place, axis in enumerate("xy")
        ]
        group = {
            "name": "pusher",
            "kind": "generic",
            "components": components,
            "output": {"topic": "~/command", "type": ARRAY},
            "on_hold": "measured",
        }
        return PolicySpec.model_validate(
            {
                "task": self.name,
                "observation": observation,
                "action_groups": [group],
                "horizon": HORIZON,
                "control_rate_hz": CONTROL_RATE_HZ,
            }
        )

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> PushTWorld:
        """The environment behind the scenario's sensors and actuators."""
        if scenario.time_limit_s is None:
            scenario = scenario.model_copy(update={"time_limit_s": TIME_LIMIT_S})
        return PushTWorld(scenario, self.spec(), seed, gui)

    def expert(self, rng: np.random.Generator) -> PushTExpert:
        """The planner."""
        return PushTExpert(rng)

    def draw(self, axes: Any, episodes: list[dict[str, Any]]) -> None:
        """How much of its place the block covered at best, episode by episode."""
        axes.bar(range(len(episodes)), [episode["metrics"]["coverage"] for episode in episodes])
        axes.axhline(SUCCESS, color="0.5", linestyle="--")
        axes.set(xlabel="episode", ylabel="largest coverage", ylim=(0.0, 1.0), title=self.name)

    def draw_futures(self, axes: Any, observation: np.ndarray, chunks: np.ndarray, colour: str = "C0") -> None:
        """The targets of the pusher, the block and its place."""
        simulation, (x, y, block_x, block_y, cosine, sine) = PushTSimulation(), observation[:6]
        for pose, shade in (
            (simulation.goal, "C2"),
            (np.array([block_x, block_y, math.atan2(sine, cosine)]), "0.5"),
        ):
            axes.fill(*placed(simulation.outline, pose).T, color=shade, alpha=0.3)
        starts = np.broadcast_to(np.array([x, y]), (len(chunks), 1, 2))
        alpha = max(0.25, 1.0 / len(chunks))
        axes.plot(
            *np.concatenate([starts, chunks], axis=1).transpose(2, 1, 0), color=colour, alpha=alpha, linewidth=0.8
        )
        axes.plot(x, y, "o", color="black", markersize=4)
        axes.set(xlim=(0.0, SIZE_M), ylim=(SIZE_M, 0.0), aspect="equal", xlabel="x [m]", ylabel="y [m]")

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (680, 680, 3) uint8 by the environment's own renderer."""
        simulation = PushTSimulation("rgb_array")
        pictures = []
        for x, y, *block in snapshots:
            simulation.place(np.array([x, y]), np.array(block))
            pictures.append(np.asarray(simulation.env.render(), dtype=np.uint8))
        simulation.env.close()
        return pictures


class PushTWorld(SimulatedWorld):
    """One environment; a snapshot is the pusher's place and the block's pose."""

    def __init__(self, scenario: Scenario, spec: PolicySpec, seed: int = 0, gui: bool = False) -> None:
        self._simulation, self._shown = PushTSimulation("human" if gui else None), gui
        topics = {TOPIC: TopicLayout(ARRAY, tuple(f"data[{place}]" for place in range(len(STATE))))}
        super().__init__(scenario, spec, topics, TICK_S, seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self._simulation.env.reset(seed=int(rng.integers(2**31)))
        return Outcome(metrics={"coverage": 0.0})

    def _start_command(self) -> Sequence[float]:
        return self._simulation.agent.tolist()

    def _advance(self, command: Sequence[float]) -> None:
        self._simulation.tick(np.array(command))

    def _true_values(self, topic: str) -> Sequence[float]:
        x, y, angle = self._simulation.block
        return [*self._simulation.agent.tolist(), float(x), float(y), math.cos(angle), math.sin(angle)]

    def _judge(self) -> None:
        if self._ticks % JUDGED_EVERY:
            return
        outcome, covered = self.outcome, self._simulation.coverage()
        outcome.metrics["coverage"] = max(float(outcome.metrics["coverage"]), covered)
        outcome.success = covered > SUCCESS
        outcome.finished |= outcome.success
        if self._shown:
            self._simulation.env.render()

    @property
    def truth(self) -> PushTTruth:
        """Where pusher and block truly are."""
        return PushTTruth(self._simulation.agent, self._simulation.block)

    def snapshot(self) -> list[float]:
        """The pusher's place and the block's pose."""
        return [*self._simulation.agent.tolist(), *self._simulation.block.tolist()]

    def close(self) -> None:
        """Close the environment."""
        self._simulation.env.close()
