"""A world seen through its sensors: the observation that the controller would see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srdp_controller.errors import SpecError
from srdp_controller.observation import ObservationAssembler
from srdp_controller.simulation.world import World
from srdp_controller.spec import PolicySpec


class ObservedWorld:
    """A world whose messages go through the controller's own ``ObservationAssembler``.

    Attributes:
        world: the simulated robot.
        assembler: of the observation.

    Raises:
        SpecError: the spec observes what the world does not publish.
    """

    def __init__(self, world: World, spec: PolicySpec) -> None:
        self.world = world
        self.assembler = ObservationAssembler(spec)
        self._places: dict[str, list[int]] = {}
        for topic, plan in self.assembler.plans.items():
            layout = world.topics.get(topic)
            if layout is None:
                if plan.optional:
                    continue
                raise SpecError(f"the spec observes {topic}; the world publishes {', '.join(world.topics)}")
            if layout.type != plan.type:
                raise SpecError(f"topic {topic}: the spec expects {plan.type}, the world publishes {layout.type}")
            if plan.frame and plan.frame != layout.frame:
                raise SpecError(
                    f"topic {topic}: the spec expects frame {plan.frame!r}, the world's is {layout.frame!r}"
                )
            for field in plan.fields:
                if "[" in field and field not in layout.fields:
                    raise SpecError(f"topic {topic}: the spec observes {field}, the world fills {layout.fields}")
            # what a world does not fill is 0 in its messages: the place past the last value
            filled = {field: place for place, field in enumerate(layout.fields)}
            self._places[topic] = [filled.get(field, len(layout.fields)) for field in plan.fields]
        self._ages_ns = list(dict.fromkeys(self.assembler.history_ages_ns))
        self._sent: list[tuple[float, Sequence[float]]] = []

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode and wait, at rest, until every required sensor has spoken once."""
        self.world.reset(rng)
        self.assembler.reset()
        self._sent.clear()
        self._take()
        while self.assembler.missing() and not self.world.outcome.finished:
            self.tick()

    def step(self, command: Sequence[float]) -> None:
        """Send a command (act_dim,) and let one control step of the spec pass."""
        self.send(command)
        for _ in range(max(1, round(self.assembler.spec.step_s / self.world.tick_s))):
            self.tick()

    def tick(self) -> None:
        """One tick of the world, then take what its sensors published."""
        self.world.tick()
        self._take()

    def _take(self) -> None:
        """Take what came, unless the controller's node would refuse it by its shape or its stamp."""
        now = self.world.time_s + 1e-9
        for topic, values, measured_s in self.world.measurements():
            places = self._places.get(topic)
            if places is not None and len(values) == len(self.world.topics[topic].fields) and measured_s <= now:
                message = [*values, 0.0]
                self.assembler.update(topic, [message[place] for place in places], round(measured_s * 1e9))

    def send(self, command: Sequence[float]) -> None:
        """Send a command (act_dim,), and remember it for the observation's past commands."""
        self.world.send(command)
        if self._ages_ns:
            self._sent.append((self.world.time_s, command))

    def _command_at(self, time_s: float) -> Sequence[float]:
        sent = (command for sent_s, command in reversed(self._sent) if sent_s <= time_s + 1e-9)
        return next(sent, [0.0] * self.assembler.spec.act_dim)

    @property
    def observation(self) -> np.ndarray:
        """A copy of the observation (obs_dim,) float32, raw SI units."""
        now = self.world.time_s
        self.assembler.remember(round(now * 1e9))
        if self._ages_ns:
            self.assembler.set_history({age: self._command_at(now - age * 1e-9) for age in self._ages_ns})
        return self.assembler.vector.copy()
