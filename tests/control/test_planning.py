"""Planning ahead of the loop: schedules with hand-made chunks, and the cycle with real engines in virtual time."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from virtual_rig import MS, Virtual

from srdp_controller.control.deployment import fits, require_chunk
from srdp_controller.control.planner import ChunkSchedule, Plan, PlanWorker
from srdp_controller.control.supervisor import Mode
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import EngineError

STEP = 50


def plan_of(values, begun=0, **more):
    return Plan(np.array(values, dtype=float)[:, None], begun, begun, **more)


def test_a_plan_that_follows_drops_what_is_past_and_fades_in():
    schedule = ChunkSchedule(STEP, blend_ns=40)
    schedule.join(plan_of([0.0] * 8), 0, blend=False)
    schedule.join(plan_of([9.0, 1.0, 1.0, 1.0], begun=10), 70, blend=True)  # 60 after its begin: its second action
    assert schedule.action(70)[0] == 0.0
    assert schedule.action(90)[0] == pytest.approx(0.5)
    assert schedule.action(110)[0] == 1.0
    assert schedule.action(90)[0] == 1.0  # the fading is over, and does not come back


def test_without_blending_a_plan_takes_over_at_once():
    schedule = ChunkSchedule(STEP, blend_ns=0)
    schedule.join(plan_of([0.0] * 8), 0, blend=False)
    schedule.join(plan_of([1.0] * 8), 70, blend=True)
    assert schedule.action(70)[0] == 1.0


def test_a_blended_command_is_as_old_as_the_older_of_its_plans():
    schedule = ChunkSchedule(STEP, blend_ns=40)
    schedule.join(plan_of([0.0] * 8, begun=5), 10, blend=False)
    schedule.join(plan_of([1.0] * 8, begun=60), 70, blend=True)
    schedule.action(80)
    assert schedule.measured_ns() == 5
    schedule.action(120)
    assert schedule.measured_ns() == 60


def test_committed_are_the_actions_that_the_old_chunk_executes_until_the_new_one_is_ready():
    schedule = ChunkSchedule(STEP, blend_ns=0)
    schedule.join(plan_of([0.0, 1.0, 2.0, 3.0]), 0, blend=False)
    # steps of the new chunk begin at 20, 70, ...; their middles are 45, 95, ...
    assert schedule.committed(20, 90, most=4) == [[0.0], [1.0]]
    assert schedule.committed(20, 90, most=1) == [[0.0]]
    assert schedule.committed(160, 120, most=4) == [[3.0]]  # the chunk ends
    assert ChunkSchedule(STEP, 0).committed(0, 90, most=4) == []


@pytest.fixture
def virtual(bundle):
    return Virtual(bundle)


def test_an_engine_that_outlasts_the_period_drives_with_its_newest_plan(virtual):
    assert virtual.step(2) is Mode.HOLD  # the first plan takes 40 ms, a period is 10
    assert virtual.step(8) is Mode.STUDENT
    assert len(virtual.published) == 10  # and every cycle had its command
    virtual.step(20)
    assert virtual.planner.plans >= 4
    # as old as a plan that has just been replaced: twice the planning, the blending, and what the cycles round up
    assert virtual.command_age_ns <= 2 * virtual.took_ns + 50 * MS + 3 * virtual.period_ns
    assert any(virtual.published[-1][0])


def test_a_plan_ahead_that_becomes_too_old_is_not_driven_any_more(virtual):
    virtual.step(10)
    virtual.took_ns = 10_000 * MS
    modes = {virtual.step() for _ in range(40)}
    assert modes == {Mode.STUDENT, Mode.HOLD}
    assert virtual.cycle.supervisor.mode is Mode.HOLD
    assert "takes longer than 250 ms" in virtual.cycle.supervisor.reason


def test_a_planner_that_fails_holds_and_says_why(virtual):
    virtual.step(10)

    def fail():
        raise EngineError("engine teacher: broken")

    virtual.cycle.slot.current.engine.run = fail
    assert virtual.step(10) is Mode.HOLD
    assert "engine teacher: broken" in virtual.cycle.supervisor.reason


def test_a_plan_of_the_engine_before_the_swap_is_never_joined_after_it(virtual):
    virtual.step(10)
    virtual.swap("student_k1", ahead=True)
    virtual.step(1)
    engines = set()
    for _ in range(20):
        virtual.step()
        if virtual.cycle.supervisor.mode is Mode.STUDENT:
            engines.add(virtual.cycle.schedule.plan.engine.name)
    assert engines == {"student_k1"}


def test_a_swap_between_planning_ahead_and_every_cycle_keeps_every_command(virtual):
    virtual.step(20)
    for name, ahead in (("student_k4", False), ("teacher", True), ("student_k1", False)):
        virtual.swap(name, ahead)
        assert virtual.step(15) is Mode.STUDENT
    assert len(virtual.published) == 65
    assert virtual.cycle.safety.violations == 0


def test_a_student_planned_ahead_abstains_on_its_own_score(bundle):
    virtual = Virtual(bundle, engine="student_k4", threshold=1e-9, took_ms=20.0)
    assert virtual.step(12) is Mode.TEACHER
    assert virtual.cycle.statistics.score > 0.0


def test_a_change_of_the_source_is_blended_in(bundle):
    """From the student's chunk to the teacher's: no change of the wish larger than the blending allows."""
    virtual = Virtual(bundle, engine="student_k4", ahead=False, took_ms=5.0)
    virtual.step(20)
    cycle = virtual.cycle
    cycle.slot.current = replace(cycle.slot.current, threshold=1e-9)
    wishes = []
    for _ in range(10):
        virtual.step()
        wishes.append(np.array(cycle.schedule.action(virtual.now)))
    assert cycle.supervisor.mode is Mode.TEACHER
    reach = 2.0 * 0.22  # between two opposite wishes
    changes = np.linalg.norm(np.diff(wishes, axis=0), axis=1)
    assert changes.max() <= reach * virtual.period_ns / (50 * MS) + 0.02


def test_the_worker_gives_up_a_plan_after_its_deadline(bundle):
    engine = load_engine(bundle, "teacher", "cpu")
    worker = PlanWorker(engine)
    try:
        observation, noise = engine.observation[0].copy(), np.zeros_like(engine.noise)
        ran = engine.run

        def slowly():
            for _ in range(400):
                ran()

        engine.run = slowly
        begun = time.monotonic_ns()
        assert worker.submit(observation, noise, begun, begun)
        assert not worker.submit(observation, noise, begun, begun)  # one at a time
        while worker.busy:
            worker.expire(time.monotonic_ns(), 20 * MS)
            time.sleep(0.002)
        assert time.monotonic_ns() - begun < 400 * 1 * MS
        assert worker.newest(begun) is None and "cancelled" in worker.error
    finally:
        worker.close()


def test_an_engine_too_slow_for_its_own_chunks_is_refused_with_the_time_it_would_need():
    assert not fits(30 * MS, 10 * MS)
    require_chunk("teacher", 30 * MS, 400 * MS, 250 * MS)
    with pytest.raises(EngineError, match="at most 125 ms are possible"):
        require_chunk("teacher", 130 * MS, 400 * MS, 250 * MS)


class CountingEngine:
    """An engine that goes on counting from the actions that it is told are committed: any wrong one would show."""

    name, provider, evaluations = "counting", "cpu", 1

    def __init__(self, spec):
        self.spec = spec
        self.observation = np.zeros((1, spec.obs_dim), np.float32)
        self.noise = np.zeros((1, 1, spec.horizon, spec.act_dim), np.float32)
        self.action = np.zeros((1, spec.horizon, spec.act_dim), np.float32)
        self.latent = self.teacher_latent = np.zeros((1, 4), np.float32)
        self.told = []

    def run(self):
        spec = self.spec
        count = round(float(self.observation[0, spec.prefix_length_index]))
        columns = spec.prefix_columns()
        prefix = [float(self.observation[0, columns[step, 0]]) for step in range(count)]
        self.told.append(prefix)
        following = prefix[-1] + 1e-3 if prefix else 0.0
        values = [*prefix, *(following + 1e-3 * step for step in range(spec.horizon - count))]
        self.action[0, :, 0] = values

    def cancel(self):
        """Nothing to cancel."""


def test_a_policy_with_an_action_prefix_is_told_what_is_executed_until_its_plan_is_ready(bundle):
    class Prefixed(Virtual):
        @staticmethod
        def load(bundle, name, provider):
            return CountingEngine(bundle.spec)

    class Bundle:
        spec = bundle.spec.extended(prefix=3)

    virtual = Prefixed(Bundle, took_ms=90.0)
    wishes = []
    for _ in range(120):
        virtual.step()
        if virtual.cycle.schedule.plan is not None:
            wishes.append(float(virtual.cycle.schedule.action(virtual.now)[0]))
    told = virtual.cycle.slot.current.engine.told
    assert len(told) >= 10 and all(len(prefix) == 2 for prefix in told[2:])  # 90 ms are two steps of 50
    changes = np.diff(wishes[30:])  # the first plan does not know yet how long it takes
    assert changes.min() >= -1e-6 and changes.max() <= 2.1e-3  # it counts on through every change of plan
    assert not virtual.assembler.vector[bundle.spec.obs_dim :].any()  # nothing of it is left for who comes next


def test_an_engine_does_not_answer_for_the_one_before_it(bundle):
    first, second = (load_engine(bundle, "student_k1", "cpu") for _ in range(2))
    gate = threading.Event()

    def fail():
        gate.wait(5.0)
        raise EngineError("engine student_k1: broken")

    first.run = fail
    worker = PlanWorker(first)
    try:
        worker.submit(first.observation[0].copy(), np.zeros_like(first.noise), 0, 0)
        worker.exchange(second)
        gate.set()
        while worker.busy:
            time.sleep(0.001)
        assert worker.error == ""
    finally:
        worker.close()
