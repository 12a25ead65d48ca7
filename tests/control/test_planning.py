"""Planning ahead of the loop: schedules with hand-made chunks, and the cycle with real engines in virtual time."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from virtual_rig import MS, Virtual

from srdp_controller.control.deployment import fits, require_chunk
from srdp_controller.control.planner import ChunkSchedule, Plan, PlanWorker, soft_mask
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


def test_an_engine_too_slow_for_its_own_chunks_is_warned_of_then_refused_with_the_time_it_would_need():
    assert not fits(30 * MS, 10 * MS)
    assert require_chunk("teacher", 125 * MS, 400 * MS, 250 * MS) == ""
    assert "holds for 50 ms before each plan" in require_chunk("teacher", 150 * MS, 400 * MS, 250 * MS)
    with pytest.raises(EngineError, match="at most 250 ms are possible"):
        require_chunk("teacher", 260 * MS, 400 * MS, 250 * MS)


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


# --- what is left of the plan in force, and corrections of late actions --------------------------


def test_the_soft_mask_binds_what_is_executed_meanwhile_and_frees_what_no_plan_reaches():
    weights = soft_mask(committed=2, left=6, horizon=8)
    assert weights[:2].tolist() == [1.0, 1.0] and weights[6:].tolist() == [0.0, 0.0]
    assert np.all(np.diff(weights[1:7]) < 0.0)
    share = (6 - 3) / (6 - 2 + 1)  # c_3 of arXiv 2506.07339, eq. 5
    assert weights[3] == pytest.approx(share * (np.exp(share) - 1.0) / (np.e - 1.0))


def test_the_rest_of_a_plan_is_given_in_the_next_ones_steps_and_goes_on_with_its_last_action():
    schedule = ChunkSchedule(STEP, blend_ns=0)
    assert schedule.rest(0, 90) is None
    schedule.join(plan_of([0.0, 1.0, 2.0, 3.0]), 0, blend=False)
    rest = schedule.rest(70, 60)  # steps begin at 70, 120: their middles are in the second and in the third action
    assert rest.chunk[:, 0].tolist() == [1.0, 2.0, 3.0, 3.0]
    assert rest.weights.tolist() == soft_mask(committed=2, left=3, horizon=4).tolist()
    assert schedule.rest(400, 60) is None  # it is over


class GuidedEngine(CountingEngine):
    """Counts on from the rest of the chunk in force."""

    def __init__(self, spec):
        super().__init__(spec)
        self.previous, self.weights = np.zeros_like(self.action), np.zeros((1, spec.horizon), np.float32)

    def run(self):
        self.told.append(self.weights[0].copy())
        self.action[0, :, 0] = self.previous[0, 0, 0] + 1e-3 * np.arange(self.spec.horizon)


def test_a_guided_engine_is_told_the_rest_and_its_plan_is_joined_without_fading(bundle):
    class Rig(Virtual):
        @staticmethod
        def load(bundle, name, provider):
            return GuidedEngine(bundle.spec)

    virtual = Rig(bundle, took_ms=90.0)
    virtual.step(100)
    told = virtual.cycle.slot.current.engine.told
    assert not told[0].any()  # nothing was in force
    assert len(told) >= 9 and all(weights[:2].tolist() == [1.0, 1.0] for weights in told[2:])  # 90 ms: two steps
    assert virtual.cycle.schedule.plan.conditioned


class Head:
    """Says what it was shown, as a correction."""

    name = "head"

    def __init__(self, spec):
        self.observation, self.origin = (np.zeros((1, spec.obs_dim), np.float32) for _ in range(2))
        self.base_action, self.correction = (np.zeros((1, spec.act_dim), np.float32) for _ in range(2))
        self.index, self.shown, self.value = np.zeros((1, 1), np.float32), [], 0.01

    def run(self):
        self.shown.append((self.observation.copy(), self.origin.copy(), self.base_action.copy(), int(self.index[0, 0])))
        self.correction[:] = self.value


def corrected(bundle, **more):
    virtual = Virtual(bundle, engine="student_k4", took_ms=40.0, **more)
    head = Head(bundle.spec)
    virtual.cycle.slot.current = replace(virtual.cycle.slot.current, corrector=head)
    return virtual, head


def test_a_late_action_is_corrected_from_the_newest_observation_in_every_cycle(bundle):
    virtual, head = corrected(bundle)
    assert virtual.step(2) is Mode.HOLD and not head.shown  # there is nothing to correct
    virtual.step(4)
    virtual.messages["/object_pose"] = [-0.10, 0.02]
    virtual.step(1)
    observation, origin, base, index = head.shown[-1]
    place = bundle.spec.observation_index("object_x")
    assert observation[0, place] == pytest.approx(-0.10) and origin[0, place] == pytest.approx(-0.15)
    assert index == 1 and len(head.shown) == 3  # planned in the first cycle, 60 ms ago
    wish = virtual.cycle.schedule.action(virtual.now)
    np.testing.assert_allclose(wish, base[0] + 0.01, atol=1e-7)
    virtual.step(30)
    assert len(head.shown) == 33 and {shown[3] for shown in head.shown} == {0, 1}  # plans get 80 ms old, steps are 50


def test_a_correction_that_is_no_number_is_a_failure_of_the_engine(bundle):
    virtual, head = corrected(bundle)
    virtual.step(8)
    head.value = float("nan")
    assert virtual.step() is Mode.HOLD
    assert "head answered NaN" in virtual.cycle.supervisor.reason


def test_a_chunk_is_executed_for_its_time_unless_it_grows_old_or_another_engine_takes_over(bundle):
    rig = Virtual(bundle, engine="student_k1", ahead=False, **{"planning.execution_time": 0.05})
    inference = rig.cycle.statistics.inference
    rig.step(10)
    assert inference.count == 2  # cycles of 10 ms: the first and the sixth
    assert rig.command_age_ns == 4 * rig.period_ns + MS
    rig.swap("student_k4", ahead=False)
    rig.step()
    assert inference.count == 3
    rig.age_ns = 225 * MS  # of the 250 that an observation may be old
    rig.step(4)
    before = inference.count
    rig.step(6)
    assert inference.count == before + 2


def test_a_cycle_that_wakes_up_late_does_not_lengthen_the_execution_of_its_chunk(bundle):
    rig = Virtual(bundle, engine="student_k1", ahead=False, **{"planning.execution_time": 0.05})
    rig.now += 3 * MS
    rig.step()
    rig.now -= 3 * MS
    rig.step(5)
    assert rig.cycle.statistics.inference.count == 2


def test_no_chunk_is_executed_past_its_end(bundle):
    rig = Virtual(
        bundle, engine="student_k1", ahead=False, **{"planning.execution_time": 2.0, "observation.max_age": 2.0}
    )
    cycles = round(bundle.spec.horizon * bundle.spec.step_s / 0.01)
    rig.step(cycles)
    assert rig.cycle.statistics.inference.count == 1
    rig.step()
    assert rig.cycle.statistics.inference.count == 2
