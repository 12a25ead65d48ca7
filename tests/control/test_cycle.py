"""The control cycle with real engines, observations and commands passed by hand."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from srdp_controller.control.build import build_cycle, default_values
from srdp_controller.control.deployment import (
    Deployment,
    DeploymentRequest,
    DeploymentSlot,
    measure,
    require_fit,
    require_same_robot,
)
from srdp_controller.control.loop import LoopState
from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import Plan, PlanWorker
from srdp_controller.control.supervisor import Mode
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import EngineError
from srdp_controller.observation import ObservationAssembler

PERIOD_NS = 10_000_000
MAX_AGE_NS = 200_000_000
JOINTS = [0.11316, 0.94705, 0.36785, -1.34959, -0.37755, 0.91374, -0.99858]  # tip at (-0.21, 0.045)


class Rig:
    """A controller on the test bundle; time passes only through ``step``."""

    def __init__(self, bundle, threshold=None):
        self.bundle = bundle
        self.published = []
        self.messages = {}
        self.now = time.monotonic_ns()
        spec = bundle.spec
        self.assembler = ObservationAssembler(spec)
        self.threshold = threshold if threshold is not None else bundle.calibration().threshold("student_k4", 0.01)
        self.teacher_engine = load_engine(bundle, "teacher", "cpu")
        first = self.prepare(DeploymentRequest("student_k4"))
        self.teacher, self.ahead = PlanWorker(self.teacher_engine), PlanWorker(first.engine)
        values = {
            "update_rate": 100.0,
            "observation.max_age": 0.2,
            "fallback.hold_time": 0.5,
            "safety.max_jerk": 0.0,
            "thread_priority": 0,
        }
        self.cycle = build_cycle(
            {**default_values(), **values},
            self.assembler,
            first,
            self.prepare,
            self.teacher,
            self.ahead,
            Telemetry(1000, spec),
            self.take,
            lambda command, following, observed: self.published.append((list(command), observed)),
        )
        self.slot = self.cycle.slot

    def close(self):
        self.teacher.close()
        self.ahead.close()

    def prepare(self, request):
        engine = load_engine(self.bundle, request.engine, "cpu")
        return Deployment(request, engine, self.threshold, 0.0, self.teacher_engine)

    def take(self, now_ns):
        for topic, values in self.messages.items():
            self.assembler.update(topic, values, now_ns - 1_000_000)
        return 0

    def nominal(self):
        self.messages = {"/joint_states": JOINTS, "/object_pose": [-0.15, 0.03], "/goal_pose": [0.15, 0.0]}
        return self

    def step(self, cycles=1, real_time=False):
        for _ in range(cycles):
            if real_time:
                time.sleep(PERIOD_NS * 1e-9)
                self.now = time.monotonic_ns()
            else:
                self.now += PERIOD_NS
            self.cycle(self.now)
        return self.cycle.supervisor.mode


@pytest.fixture
def rig(bundle):
    made = Rig(bundle)
    yield made
    made.close()


@pytest.fixture
def distrusted(bundle):
    """A rig whose threshold no state passes."""
    made = Rig(bundle, threshold=1e-9)
    yield made
    made.close()


def test_without_observations_it_holds_and_commands_nothing(rig):
    assert rig.step(100) is Mode.HOLD
    assert len(rig.published) == 100
    assert all(command == [0.0, 0.0] for command, _ in rig.published)
    assert "/joint_states" in rig.cycle.supervisor.reason


def test_with_observations_the_student_drives(rig):
    assert rig.nominal().step(10) is Mode.STUDENT
    assert any(any(command) for command, _ in rig.published)


def test_every_cycle_publishes_one_command_stamped_with_its_observation(rig):
    rig.nominal().step(5)
    assert len(rig.published) == rig.cycle.statistics.commands == 5
    assert rig.published[-1][1] == rig.now - 1_000_000


def test_stale_observations_hold_then_stop_smoothly_and_reset_recovers(rig):
    rig.nominal().step(30)
    rig.messages = {}
    modes = [rig.step() for _ in range(120)]
    assert modes[0] is Mode.STUDENT  # not stale yet
    assert modes.index(Mode.HOLD) * PERIOD_NS <= MAX_AGE_NS + 2 * PERIOD_NS
    assert modes[-1] is Mode.STOP and rig.published[-1][0] == [0.0, 0.0]
    assert rig.cycle.safety.violations == 0
    rig.nominal().step(5)
    assert rig.cycle.supervisor.mode is Mode.STOP
    rig.cycle.supervisor.request_reset()
    assert rig.step(3) is Mode.STUDENT


def test_an_untrusted_student_hands_over_to_the_teacher_and_takes_back(distrusted):
    rig = distrusted
    rig.nominal().step(1)
    for _ in range(100):
        if rig.step(1, real_time=True) is Mode.TEACHER:
            break
    assert rig.cycle.supervisor.mode is Mode.TEACHER
    assert rig.teacher.plans > 0
    rig.slot.current = replace(rig.slot.current, threshold=math.inf)
    assert rig.step(3, real_time=True) is Mode.STUDENT


def test_an_engine_that_answers_nan_never_reaches_the_robot(rig):
    rig.nominal().step(5)
    engine = rig.slot.current.engine
    broken = engine.run

    def run_then_spoil():
        broken()
        engine.action[:] = math.nan

    engine.run = run_then_spoil
    assert rig.step(3) is Mode.HOLD
    assert rig.cycle.statistics.engine_failures == 3
    assert all(math.isfinite(value) for command, _ in rig.published for value in command)


def test_an_engine_that_raises_holds(rig):
    rig.nominal().step(5)

    def fail():
        raise EngineError("engine student_k4: out of memory")

    rig.slot.current.engine.run = fail
    assert rig.step(2) is Mode.HOLD
    assert "out of memory" in rig.cycle.supervisor.reason


def test_a_swap_takes_effect_between_two_cycles_and_loses_no_command(rig):
    rig.nominal().step(5)
    rig.slot.request(DeploymentRequest("student_k1"))
    for _ in range(300):
        rig.step(1, real_time=True)
        if rig.slot.swaps:
            break
    assert rig.slot.current.name == "student_k1"
    assert rig.cycle.statistics.commands == len(rig.published)
    assert rig.step(2) is Mode.STUDENT


def test_a_swap_that_fails_says_why_and_changes_nothing(rig):
    rig.slot.request(DeploymentRequest("student_k3"))
    for _ in range(200):
        if not rig.slot.busy:
            break
        time.sleep(0.01)
    assert "student_k3" in rig.slot.refusal
    assert rig.slot.current.name == "student_k4" and rig.slot.swaps == 0


def test_a_swap_that_hangs_is_given_up_and_the_next_one_works(rig):
    goes_on, hangs = threading.Event(), DeploymentRequest("student_k8")

    def prepare(request):
        if request == hangs:
            goes_on.wait(20.0)
        return rig.prepare(request)

    slot = DeploymentSlot(rig.slot.current, prepare, patience_s=0.2)

    def until(condition):
        end = time.monotonic() + 10.0
        while not condition() and time.monotonic() < end:
            slot.sweep()
            slot.take()
            time.sleep(0.01)
        assert condition()

    slot.request(hangs)
    until(lambda: "was not prepared within 0.2 s (swap.timeout)" in slot.refusal)
    assert slot.current.name == "student_k4" and not slot.busy
    slot.request(DeploymentRequest("student_k1"))
    until(lambda: slot.current.name == "student_k1")
    goes_on.set()  # what it brings at last is not driven
    time.sleep(0.3)
    assert not slot.take() and slot.current.name == "student_k1"


def test_an_engine_that_does_not_fit_the_period_is_refused_with_the_rate_that_would(bundle):
    engine = load_engine(bundle, "teacher", "cpu")
    with pytest.raises(EngineError, match="lower update_rate"):
        require_fit("teacher", measure(engine, 10).longest_ns, period_ns=50_000)


def test_telemetry_keeps_the_newest_rows(rig):
    rig.nominal().step(1005)
    rows = rig.cycle.telemetry.rows()
    assert len(rows) == 1000 and np.all(np.diff(rows[:, 0]) > 0)


def test_held_noise_changes_only_after_its_time():
    noise, buffer = HeldNoise(100, 3), np.zeros((1, 1, 8, 2), np.float32)
    noise.fill(buffer, 0)
    first = buffer.copy()
    noise.fill(buffer, 99)
    assert np.array_equal(buffer, first)
    noise.fill(buffer, 100)
    assert not np.array_equal(buffer, first)


def test_a_plan_skips_what_has_passed_and_ends():
    plan = Plan(np.arange(8.0)[:, None], begun_ns=1000, measured_ns=900)
    assert plan.action(1000, 50)[0] == 0.0
    assert plan.action(1120, 50)[0] == 2.0
    assert plan.action(1400, 50) is None


def test_a_plan_from_an_observation_that_is_too_old_is_not_driven(distrusted):
    rig = distrusted
    rig.nominal().step(1)
    while rig.teacher.busy:  # the real worker's own plan must not come in between
        time.sleep(0.001)
    old = rig.now - MAX_AGE_NS - 1
    rig.teacher.submit = lambda *a: False
    rig.teacher._plan = Plan(np.full((8, 2), 0.1), begun_ns=rig.now, measured_ns=old)
    assert rig.step(1) is Mode.HOLD
    rig.teacher._plan = Plan(np.full((8, 2), 0.1), begun_ns=rig.now, measured_ns=rig.now)
    assert rig.step(1) is Mode.TEACHER
    assert rig.published[-1][1] == rig.teacher._plan.measured_ns


def test_driving_the_rest_of_the_chunk_blind_stays_in_the_workspace(rig):
    rig.nominal().step(5)
    edge = rig.bundle.spec.workspace.upper[0]
    rig.messages = {}
    # the tool is taken to be just inside the edge, heading out
    rig.cycle.safety.groups[0].positions = [edge - 0.01, 0.0]
    rig.now += MAX_AGE_NS
    rig.cycle.schedule.plan = Plan(np.tile([0.2, 0.0], (8, 1)), rig.now, rig.now)
    travelled = edge - 0.01
    for _ in range(60):
        rig.step(1)
        travelled += rig.published[-1][0][0] * PERIOD_NS * 1e-9
    assert rig.cycle.supervisor.mode in (Mode.HOLD, Mode.STOP)
    assert travelled <= edge


def swap_to_a_failing_engine(rig):
    deployment = rig.prepare(DeploymentRequest("student_k1"))

    def fail():
        raise EngineError("engine student_k1: broken")

    deployment.engine.run = fail
    rig.slot._pending = deployment


def test_an_engine_that_fails_right_after_a_swap_makes_way_for_the_one_before(rig):
    rig.nominal()
    rig.step(5)
    swap_to_a_failing_engine(rig)
    rig.step()
    assert rig.slot.current.name == "student_k4" and rig.slot.rollbacks == 1
    assert "failed right after the swap" in rig.slot.refusal
    rig.step()
    assert rig.cycle.supervisor.mode is Mode.STUDENT
    assert len(rig.published) == 7  # every cycle had its command


def test_without_rollback_cycles_nothing_is_rolled_back(rig):
    rig.nominal().step(5)
    rig.cycle.settings = replace(rig.cycle.settings, rollback_cycles=0)
    swap_to_a_failing_engine(rig)
    rig.step()
    assert rig.slot.current.name == "student_k1" and rig.slot.rollbacks == 0


def test_an_engine_that_fails_later_is_not_rolled_back(rig):
    rig.nominal()
    rig.step(5)
    rig.slot._pending = rig.prepare(DeploymentRequest("student_k1"))
    rig.step(rig.cycle.settings.rollback_cycles + 2)
    assert rig.slot.previous is None

    def fail():
        raise EngineError("engine student_k1: broken")

    rig.slot.current.engine.run = fail
    rig.step()
    assert rig.slot.current.name == "student_k1" and rig.slot.rollbacks == 0
    assert rig.cycle.supervisor.mode is Mode.HOLD


def test_a_swap_brings_its_own_teacher(rig, bundle):
    rig.nominal()
    rig.step(2)
    other = load_engine(bundle, "teacher", "cpu")
    rig.slot._pending = replace(rig.prepare(DeploymentRequest("student_k1")), teacher=other)
    rig.step()
    assert rig.teacher._next is other


def test_a_bundle_for_another_robot_is_refused_by_field(bundle):
    spec = bundle.spec
    require_same_robot(spec, spec, "here")
    scaled = spec.model_copy(
        update={"observation": tuple(c.model_copy(update={"scale": 2 * c.scale}) for c in spec.observation)}
    )
    require_same_robot(spec, scaled, "here")
    with pytest.raises(EngineError, match="there: its horizon differs"):
        require_same_robot(spec, spec.model_copy(update={"horizon": 4}), "there")
    with pytest.raises(EngineError, match="there: its observation differs"):
        require_same_robot(spec, spec.extended(commands=1), "there")


def test_lateness_and_overruns_are_counted_in_the_mode_they_happened_in(rig):
    loop = LoopState()
    rig.cycle.loop = loop
    rig.nominal().step(3)
    loop.last_lateness_ns, loop.overruns = 5_000, 2  # the loop counts an overrun when its cycle is over
    rig.messages = {}
    rig.now += MAX_AGE_NS
    rig.step(1)
    by_mode = rig.cycle.statistics.by_mode
    assert by_mode[Mode.STUDENT].overruns == 2 and by_mode[Mode.HOLD].overruns == 0
    assert by_mode[Mode.HOLD].lateness.count == 1 and by_mode[Mode.HOLD].lateness.largest == 5_000
    assert by_mode[Mode.STUDENT].inference.count == 3 and by_mode[Mode.HOLD].inference.count == 0


def test_in_a_new_episode_it_waits_for_what_is_measured_in_it(rig):
    rig.nominal().step(10)
    rig.cycle.begin_episode(rig.now + PERIOD_NS)  # the next cycle's messages were measured 1 ms before it began
    assert rig.step() is Mode.HOLD
    assert rig.cycle.supervisor.reason.startswith("a new episode: waiting for /joint_states")
    assert rig.cycle.schedule.plan is None
    assert rig.step(3) is Mode.STUDENT


def test_sensors_that_fall_silent_as_an_episode_begins_lead_to_stop_in_time(rig):
    rig.nominal().step(10)
    rig.messages = {}
    rig.step(40)  # HOLD: 0.2 s until stale, then 0.2 s of the 0.5 s that it lasts
    rig.cycle.begin_episode(rig.now)  # the robot goes on by itself, its sensors do not reach us
    assert rig.step(20) is Mode.HOLD
    assert rig.step(20) is Mode.STOP


def test_an_alarm_between_two_episodes_is_counted_apart(distrusted):
    rig = distrusted
    rig.nominal()
    rig.cycle.end_episode()
    rig.step(5)
    assert (rig.cycle.statistics.alarms_between_episodes, rig.cycle.abstention.count) == (1, 0)
    rig.cycle.begin_episode(rig.now)
    rig.step(5)
    assert (rig.cycle.statistics.alarms_between_episodes, rig.cycle.abstention.count) == (1, 1)


def test_the_reason_tells_an_alarm_from_the_time_after_it(distrusted):
    rig = distrusted
    rig.teacher.submit = lambda *_: False  # in HOLD the reason is said anew in every cycle
    rig.nominal().step(2)
    assert "above 1e-09" in rig.cycle.supervisor.reason
    rig.slot.current = replace(rig.slot.current, threshold=1e6)
    rig.step()
    assert "was above 1e+06, now" in rig.cycle.supervisor.reason and "below, waiting" in rig.cycle.supervisor.reason


def broken(*_):
    raise RuntimeError("nobody thought of this")


def test_a_failure_that_says_nothing_is_a_failure(rig):
    def silent():
        raise EngineError("")

    rig.nominal().step(20)
    rig.slot.current.engine.run = silent
    rig.step()
    assert rig.cycle.supervisor.mode is Mode.HOLD and "EngineError" in rig.cycle.supervisor.reason


@pytest.mark.parametrize("where", ["engine", "reader", "planner", "submission", "schedule", "publisher"])
def test_whatever_raises_the_robot_is_stopped_and_the_cause_is_named(rig, where):
    rig.nominal().step(20)
    assert any(rig.published[-1][0])
    before, cycle = len(rig.published), rig.cycle
    if where == "engine":
        rig.slot.current.engine.run = broken
    elif where == "reader":
        cycle._take = broken
    elif where == "planner":
        rig.slot.current = replace(rig.slot.current, ahead=True)
        rig.ahead.newest = broken
    elif where == "submission":
        rig.slot.current = replace(rig.slot.current, ahead=True)
        rig.ahead.submit = broken
    elif where == "schedule":
        cycle.schedule.action = broken
    else:
        publish, cycle._publish = cycle._publish, broken
        rig.step()
        cycle._publish = publish
    rig.step(150)
    assert len(rig.published) == before + 150
    assert rig.published[-1][0] == [0.0, 0.0] and cycle.supervisor.mode is Mode.STOP
    assert "nobody thought of this" in cycle.supervisor.reason
    assert cycle.safety.violations == 0


def test_telemetry_names_every_command_and_observation(rig):
    rig.nominal().step(5)
    columns, row = rig.cycle.telemetry.columns, rig.cycle.telemetry.rows()[-1]
    assert columns[6:9] == ("command_tip_velocity_x", "command_tip_velocity_y", "tip_x")
    assert row[6:8].tolist() == rig.published[-1][0]
    assert row[8:] == pytest.approx(rig.assembler.vector)
