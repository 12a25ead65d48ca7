"""Whatever happens in whatever order: no unsafe and no stale command, and one in every cycle.

Hypothesis drives the whole control cycle, with a real bundle's engines, through sequences of faults.
"""

import math

import numpy as np
from box import BOX_BUNDLE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from virtual_rig import MS, NOMINAL, Virtual

from srdp_controller.control.supervisor import Mode
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import EngineError

BUNDLE = load_bundle(BOX_BUNDLE)
ENGINES = {name: load_engine(BUNDLE, name, "cpu", warmup=1) for name in ("student_k1", "student_k2", "teacher")}
HEALTHY = {name: engine.run for name, engine in ENGINES.items()}
VALUE = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -5.0, 0.0])
STOPPED_NS = 400 * MS  # a stop from full speed within the acceleration and jerk limits takes less


class Rig(Virtual):
    """Engines that were loaded once: hypothesis starts many."""

    @staticmethod
    def load(bundle, name, provider):
        return ENGINES[name]


class AnySequence(RuleBasedStateMachine):
    """Faults, repairs, swaps, resets and time, in any order."""

    @initialize(ahead=st.booleans(), rate=st.sampled_from([50.0, 100.0, 500.0]))
    def start(self, ahead, rate):
        for name, engine in ENGINES.items():
            engine.run = HEALTHY[name]
        self.rig = Rig(BUNDLE, engine="student_k1", ahead=ahead, took_ms=15.0, update_rate=rate)
        self.cycles = 0
        self.held_ns = self.stopped_ns = 0

    def cycle(self):
        rig, cycle = self.rig, self.rig.cycle
        before, previous_ns = list(cycle.safety.command), rig.now
        rig.step()
        self.cycles += 1
        assert len(rig.published) == self.cycles
        command, measured_ns = rig.published[-1]
        limits = cycle.safety.groups[0]
        elapsed = (rig.now - previous_ns) * 1e-9
        assert all(math.isfinite(value) for value in command)
        assert all(
            low - 1e-6 <= value <= high + 1e-6
            for low, value, high in zip(limits.lower, command, limits.upper, strict=True)
        )
        assert math.hypot(*command) <= limits.max_speed + 1e-6
        change = math.hypot(*(a - b for a, b in zip(command, before, strict=True)))
        assert change <= limits.max_acceleration * elapsed + 1e-6
        mode = cycle.supervisor.mode
        if mode in (Mode.STUDENT, Mode.TEACHER):
            assert rig.now - measured_ns <= cycle.settings.max_age_ns
            self.held_ns = self.stopped_ns = 0
            return
        passed_ns = rig.now - previous_ns
        self.stopped_ns = self.stopped_ns + passed_ns if mode is Mode.STOP else 0
        self.held_ns = (
            self.held_ns + passed_ns if mode is Mode.HOLD and cycle.safety.groups[0].positions is not None else 0
        )
        assert self.held_ns <= cycle.supervisor.timing.hold_ns + 2 * passed_ns
        if self.stopped_ns > STOPPED_NS:
            assert not any(abs(value) > 1e-6 for value in command)

    @rule(cycles=st.integers(1, 30))
    def time_passes(self, cycles):
        for _ in range(cycles):
            self.cycle()

    @rule(topic=st.sampled_from(sorted(NOMINAL)), position=st.integers(0, 6), value=VALUE)
    def a_value_goes_wrong(self, topic, position, value):
        values = list(self.rig.messages.get(topic, NOMINAL[topic]))
        values[position % len(values)] = value
        self.rig.messages[topic] = values
        self.cycle()

    @rule(topic=st.sampled_from(sorted(NOMINAL)))
    def a_topic_falls_silent(self, topic):
        self.rig.messages.pop(topic, None)
        self.cycle()

    @rule(age_ms=st.sampled_from([0, 50, 200, 240, 249, 251, 600]))
    def messages_get_old(self, age_ms):
        self.rig.age_ns = age_ms * MS
        self.cycle()

    @rule(x=st.floats(-0.4, 0.4), y=st.floats(-0.4, 0.4))
    def the_goal_moves(self, x, y):
        self.rig.messages["/goal_pose"] = [x, y]
        self.cycle()

    @rule()
    def the_sensors_heal(self):
        self.rig.messages = dict(NOMINAL)
        self.rig.age_ns = MS
        self.cycle()

    @rule(answer=st.sampled_from(["raises", "nan", "huge"]), teacher=st.booleans())
    def an_engine_misbehaves(self, answer, teacher):
        engine = self.rig.teacher_engine if teacher else self.rig.cycle.slot.current.engine
        real = HEALTHY[engine.name]

        def run():
            if answer == "raises":
                raise EngineError("broken")
            real()
            engine.action[:] = np.nan if answer == "nan" else 1e20

        engine.run = run
        self.cycle()

    @rule()
    def the_engines_heal(self):
        for name, engine in ENGINES.items():
            engine.run = HEALTHY[name]
        self.cycle()

    @rule(threshold=st.sampled_from([0.0, 0.4, math.inf]), took_ms=st.sampled_from([1, 20, 100, 149, 400]))
    def trust_and_the_teacher_change(self, threshold, took_ms):
        rig = self.rig
        rig.threshold = threshold
        rig.teacher_ns = rig.took_ns = took_ms * MS
        rig.swap("student_k1", rig.is_ahead)
        self.cycle()

    @rule(name=st.sampled_from(["student_k1", "student_k2"]), ahead=st.booleans())
    def the_engine_is_swapped(self, name, ahead):
        self.rig.swap(name, ahead)
        self.cycle()

    @rule()
    def somebody_resets(self):
        self.rig.cycle.supervisor.request_reset()
        self.cycle()

    @rule()
    def a_fault_is_reported(self):
        self.rig.cycle.supervisor.fault("broken")
        self.cycle()
        assert self.rig.cycle.supervisor.mode is Mode.STOP


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
