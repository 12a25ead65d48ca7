"""Every kind of action group: never outside its limits whatever is wished for and measured, and it always stops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdp_controller.control.limits.common import KeepOut, SafetyLimits
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.spec import PolicySpec

PERIOD = 0.01
EDGES = (0.26, 0.17, 0.1)
number = st.one_of(st.floats(), st.floats(-1, 1))


def spec_of(group, measured, workspace=None):
    """A robot with one action group, whose ``measured`` components come from an array."""
    source = {"kind": "topic", "topic": "/state", "type": "std_msgs/msg/Float64MultiArray"}
    observation = [
        {"name": name, "unit": unit, "source": {**source, "field": f"data[{i}]"}, "lower": -100.0, "upper": 100.0}
        for i, (name, unit) in enumerate(measured)
    ]
    content = {"task": "any", "observation": observation, "action_groups": [group], "horizon": 8}
    return PolicySpec.model_validate({**content, "control_rate_hz": 20.0, "workspace": workspace})


def twist(axes="xy", angular=False, **more):
    parts = [
        {"name": f"v{a}", "unit": "m/s", "field": f"twist.linear.{a}", "lower": -0.25, "upper": 0.25} for a in axes
    ]
    if angular:
        parts.append({"name": "w", "unit": "rad/s", "field": "twist.angular.z", "lower": -1.0, "upper": 1.0})
    output = {"type": "geometry_msgs/msg/TwistStamped"}
    group = {"name": "tool", "kind": "twist", "components": parts, "output": output, "on_hold": "zero", **more}
    edges = EDGES[: len(axes)]
    workspace = {"frame": "base", "axes": tuple(axes), "lower": tuple(-e for e in edges), "upper": edges}
    workspace["position_observations"] = tuple(axes)
    return spec_of(group, [(axis, "m") for axis in axes], workspace)


def joints(kind, count=2, on_hold="measured", **limits):
    unit = {"joint_velocity": "rad/s", "joint_position": "rad", "gripper": "m", "generic": "1", "joint_effort": "N m"}[
        kind
    ]
    measured = kind not in ("generic", "joint_effort")
    parts = [
        {"name": f"c{i}", "unit": unit, "field": f"data[{i}]", "lower": -1.0, "upper": 1.0, **limits}
        | ({"measured_by": f"q{i}"} if measured else {})
        for i in range(count)
    ]
    output = {"type": "std_msgs/msg/Float64MultiArray"}
    group = {"name": "arm", "kind": kind, "components": parts, "output": output, "on_hold": on_hold}
    return spec_of(group, [(f"q{i}", "rad") for i in range(count)])


PLAIN = SafetyLimits(0.22, 3.0)
SMOOTH = SafetyLimits(0.22, 3.0, max_jerk=100.0)
ZONES = (KeepOut(0.0, 0.0, 0.05), KeepOut(0.1, 0.05, 0.04))
GUARDED = SafetyLimits(0.22, 3.0, keep_out=ZONES)
BOTH = SafetyLimits(0.22, 3.0, max_jerk=100.0, keep_out=ZONES)
ORIGIN = (0.0, 0.0)


def made(limits=PLAIN, spec=None):
    return SafetyFilter(spec or twist(), limits, PERIOD)


# --- twist ---


@given(st.lists(st.tuples(number, number), max_size=40))
def test_no_sequence_of_wishes_breaks_a_limit(wishes):
    safety = made()
    previous = [0.0, 0.0]
    for wish in wishes:
        command = safety.apply(wish, ORIGIN)
        assert all(math.isfinite(value) for value in command)
        assert math.hypot(*command) <= 0.22 + 1e-6
        assert math.dist(command, previous) <= 3.0 * PERIOD + 1e-6
        previous = command
    assert safety.violations == 0


@pytest.mark.parametrize("limits", [PLAIN, SMOOTH, SafetyLimits(0.22, 0.5)])
@pytest.mark.parametrize("axes", ["x", "xy", "xyz", "z"])
@given(
    st.tuples(*[st.floats(-0.09, 0.09)] * 3),
    st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=8),
    st.sampled_from([30, 60]),
)
def test_a_tool_that_follows_its_command_stays_in_a_workspace_of_any_dimension(limits, axes, start, wishes, cycles):
    safety = made(limits, twist(axes))
    position = list(start[: len(axes)])
    for wish in wishes:
        for _ in range(cycles):
            command = safety.apply(wish[: len(axes)], position)
            position = [x + v * PERIOD for x, v in zip(position, command, strict=True)]
            assert all(abs(x) <= edge + 1e-9 for x, edge in zip(position, EDGES, strict=False))
    assert safety.violations == 0


def test_a_turn_along_one_axis_does_not_take_the_brakes_from_another():
    safety = made(SafetyLimits(0.25, 0.5))
    x = 0.0
    for cycle in range(300):
        command = safety.apply((0.25, 0.25 if cycle % 20 < 10 else -0.25), (x, 0.0))
        x += command[0] * PERIOD
        assert x <= EDGES[0]


def test_an_allowed_wish_passes_unchanged():
    safety = made()
    assert safety.apply((0.01, -0.02), ORIGIN) == pytest.approx([0.01, -0.02])
    assert safety.interventions == 0


def test_without_a_position_only_slowing_down_is_allowed():
    safety = made()
    for _ in range(20):
        safety.apply((0.2, 0.0), ORIGIN)
    fast = safety.command[0]
    safety.forget_position()
    assert safety.apply((0.2, 0.2), None)[1] == 0.0
    assert safety.apply((-0.2, 0.0), None)[0] < fast
    for _ in range(50):
        safety.apply((-0.2, 0.0), None)
    assert safety.command == pytest.approx([0.0, 0.0])


def test_unmeasured_the_position_is_reckoned_from_the_commands():
    safety, x = made(), 0.2
    safety.apply((0.2, 0.0), (x, 0.0))
    x += safety.command[0] * PERIOD
    for _ in range(200):
        x += safety.apply((0.2, 0.0), None)[0] * PERIOD
    assert 0.25 < x <= EDGES[0]


def test_without_a_workspace_nothing_has_to_be_measured():
    group = twist().action_groups[0].model_dump()
    safety = made(PLAIN, spec_of(group, [("other", "m")]))
    for _ in range(20):
        safety.apply((0.2, 0.0), None)
    assert safety.command == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize("elapsed", [0.0, -1.0])
def test_no_time_allows_no_change(elapsed):
    assert made().apply((0.2, 0.0), ORIGIN, elapsed) == [0.0, 0.0]


def test_the_stricter_of_the_specs_and_the_nodes_limits_is_in_force():
    for group_speed, node_speed in ((0.1, 0.2), (0.2, 0.1), (0.1, 0.0)):
        safety = made(SafetyLimits(node_speed, 3.0), twist(max_speed=group_speed))
        for _ in range(30):
            safety.apply((0.25, 0.25), ORIGIN)
        assert math.hypot(*safety.command) == pytest.approx(0.1)


def test_the_speed_is_that_of_the_linear_components():
    safety = made(PLAIN, twist(angular=True))
    for _ in range(60):
        safety.apply((0.2, 0.0, 0.9), ORIGIN)
    assert safety.command == pytest.approx([0.2, 0.0, 0.9])


def test_a_turn_that_is_listed_between_two_linear_components_is_no_part_of_the_speed():
    group = twist(angular=True).action_groups[0].model_dump()
    x, y, turn = group["components"]
    group["components"] = [part | {"index": -1} for part in (x, turn, y)]
    safety = made(PLAIN, spec_of(group, [("other", "m")]))
    for _ in range(60):
        safety.apply((0.15, 0.9, 0.15), None)
    assert safety.command == pytest.approx([0.15, 0.9, 0.15])
    for _ in range(60):
        safety.apply((0.22, 0.9, 0.22), None)
    assert safety.command == pytest.approx([0.22 / math.sqrt(2), 0.9, 0.22 / math.sqrt(2)])


@pytest.mark.parametrize("limits", [GUARDED, BOTH])
@given(
    st.floats(-0.25, 0.25),
    st.floats(-0.16, 0.16),
    st.lists(st.floats(-math.pi, math.pi), min_size=1, max_size=12),
)
def test_a_tool_that_follows_its_command_never_enters_a_zone_nor_leaves_the_workspace(limits, x, y, headings):
    if any(math.hypot(x - zone.x, y - zone.y) < zone.radius for zone in ZONES):
        return
    safety = made(limits)
    for angle in headings:
        for _ in range(60):
            command = safety.apply((math.cos(angle), math.sin(angle)), (x, y))
            x, y = x + command[0] * PERIOD, y + command[1] * PERIOD
            assert all(math.hypot(x - zone.x, y - zone.y) >= zone.radius - 1e-4 for zone in ZONES)
            assert -0.26 <= x <= 0.26 and -0.17 <= y <= 0.17
    assert safety.violations == 0


def test_a_tool_slides_round_a_zone_instead_of_stopping():
    safety = made(GUARDED)
    x, y = -0.15, 0.01
    for _ in range(400):
        command = safety.apply((0.2, 0.0), (x, y))
        x, y = x + command[0] * PERIOD, y + command[1] * PERIOD
    assert x > 0.0  # past the middle of the first zone
    assert safety.interventions_by_cause["keep_out"] > 0


def test_inside_a_zone_the_way_out_is_open():
    safety = made(GUARDED)
    for _ in range(20):
        command = safety.apply((-0.1, 0.0), (-0.02, 0.0))
    assert command[0] == pytest.approx(-0.1)
    for _ in range(20):
        command = safety.apply((0.1, 0.0), (-0.02, 0.0))
    assert command[0] <= 1e-9


@given(st.lists(st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)), max_size=60))
def test_the_acceleration_changes_no_faster_than_the_jerk_limit(wishes):
    safety = made(SMOOTH)
    previous, acceleration = [0.0, 0.0], [0.0, 0.0]
    for wish in wishes:
        exceptions = safety.groups[0].jerk_exceptions
        command = safety.apply(wish, ORIGIN)
        now = [(a - b) / PERIOD for a, b in zip(command, previous, strict=True)]
        if safety.groups[0].jerk_exceptions == exceptions:
            # 1e-3: a command within 1e-6 m/s of its target is put on it
            assert math.dist(now, acceleration) <= SMOOTH.max_jerk * PERIOD + 1e-3
        previous, acceleration = command, now
    assert safety.violations == 0


def test_a_step_is_reached_smoothly_and_without_ringing():
    safety = made(SMOOTH)
    speeds = [safety.apply((0.15, 0.0), ORIGIN)[0] for _ in range(200)]
    assert max(speeds) < 0.16 and speeds[-1] == pytest.approx(0.15, abs=2e-3)
    assert speeds[0] <= SMOOTH.max_jerk * PERIOD**2 + 1e-9


def test_a_smooth_stop_ends_at_zero():
    safety = made(SMOOTH)
    for _ in range(50):
        safety.apply((0.15, 0.1), ORIGIN)
    assert not safety.at_rest
    for _ in range(60):
        command = safety.apply(None, ORIGIN)
    assert command == [0.0, 0.0] and safety.at_rest


# --- interventions ---


def test_an_intervention_is_counted_by_its_cause():
    for wish, position, cause in (
        ((10.0, 0.0), ORIGIN, "limit"),
        ((math.nan, 0.0), ORIGIN, "not_finite"),
        ((0.2, 0.2), ORIGIN, "speed"),
        ((0.2, 0.0), (0.255, 0.0), "barrier"),
        ((0.2, 0.0), (-0.055, 0.0), "keep_out"),
    ):
        safety = made(GUARDED)
        safety.apply(wish, position)
        assert safety.interventions == 1 and safety.interventions_by_cause[cause] == 1, cause


def test_a_step_that_is_rounded_off_is_no_intervention_and_one_that_stays_behind_is():
    quick, slow = made(SMOOTH), made(SafetyLimits(0.22, 0.5))
    for safety in (quick, slow):
        for _ in range(30):
            safety.apply((0.06, 0.0), ORIGIN)
    assert quick.interventions == 0
    assert slow.interventions_by_cause["acceleration"] > 0


def test_a_stop_is_no_intervention():
    safety = made(SMOOTH)
    for _ in range(30):
        safety.apply((0.05, 0.0), ORIGIN)
    before = safety.interventions
    for _ in range(30):
        safety.apply(None, ORIGIN)
    assert safety.interventions == before


# --- joints ---

ACCELERATIONS = [{}, {"max_acceleration": 5.0}, {"max_acceleration": 5.0, "max_jerk": 200.0}]
wishes = st.lists(st.tuples(number, number), min_size=1, max_size=8)


@pytest.mark.parametrize("limits", ACCELERATIONS)
@given(st.floats(-0.6, 0.6), wishes, st.sampled_from([1, 7, 40]))
def test_a_joint_that_integrates_its_velocity_never_leaves_its_range(limits, start, wishes, cycles):
    spec = joints("joint_velocity", on_hold="zero", position_lower=-0.7, position_upper=0.7, **limits)
    safety = made(PLAIN, spec)
    q, before = [start, start], [0.0, 0.0]
    for wish in wishes:
        for _ in range(cycles):
            command = safety.apply(wish, q)
            assert all(abs(v) <= 1.0 + 1e-6 for v in command)
            if "max_acceleration" in limits:
                assert all(abs(v - b) <= 5.0 * PERIOD + 1e-6 for v, b in zip(command, before, strict=True))
            q, before = [x + v * PERIOD for x, v in zip(q, command, strict=True)], command
            assert all(abs(x) <= 0.7 + 1e-6 for x in q)
    for _ in range(100):
        command = safety.apply(None, q)
    assert command == [0.0, 0.0] and safety.at_rest and safety.violations == 0


TRACKING = [{}, {"max_velocity": 2.0}, {"max_velocity": 2.0, "max_acceleration": 10.0}]
TRACKING.append({"max_velocity": 2.0, "max_acceleration": 10.0, "max_jerk": 500.0})


@pytest.mark.parametrize("limits", TRACKING)
@pytest.mark.parametrize("on_hold", ["measured", "last", 0.3])
@given(
    st.floats(-1.0, 1.0), wishes, st.sampled_from([1, 5, 40]), st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1)
)
def test_a_position_follows_within_its_limits_and_stands_on_hold(limits, on_hold, start, wishes, cycles, paces):
    safety = made(PLAIN, joints("joint_position", on_hold=on_hold, **limits))
    assert not safety.ready
    safety.apply(None, (start, start))
    assert safety.ready
    before, speed = safety.command, safety.groups[0].velocity
    for wish in wishes:
        for cycle in range(cycles):
            elapsed = PERIOD * paces[cycle % len(paces)]
            command = safety.apply(wish, (start, start), elapsed)
            assert all(abs(p) <= 1.0 for p in command)
            now = [(p - b) / elapsed for p, b in zip(command, before, strict=True)]
            assert all(abs(v) <= limits.get("max_velocity", math.inf) + 1e-3 for v in now)
            if "max_acceleration" in limits:
                most = limits["max_acceleration"] * elapsed + 1e-3
                assert all(abs(v - w) <= most for v, w in zip(now, speed, strict=True))
            before, speed = command, now
    for _ in range(200):
        safety.apply(None, (start, start))
    held = safety.command
    assert safety.at_rest and safety.apply(None, (0.0, 0.0)) == held
    if on_hold == 0.3:
        assert held == pytest.approx([0.3, 0.3], abs=1e-3)
    assert safety.violations == 0


def test_the_first_position_is_the_measured_one():
    safety = made(PLAIN, joints("joint_position", max_velocity=1.0))
    assert safety.apply((1.0, 1.0), (0.4, -0.2)) == pytest.approx([0.4 + PERIOD, -0.2 + PERIOD])


def test_a_robot_that_was_moved_goes_on_from_where_it_is_measured():
    safety = made(PLAIN, joints("joint_position", max_velocity=1.0))
    for _ in range(20):
        safety.apply((0.5, 0.5), (0.4, -0.2))
    before = list(safety.command)
    safety.forget_position()
    assert safety.apply(None, None) == pytest.approx(before, abs=1.1 * PERIOD)  # nothing is known yet
    assert safety.apply(None, (-0.3, 0.1)) == pytest.approx([-0.3, 0.1])


@pytest.mark.parametrize("limits", TRACKING[2:])
def test_a_position_reaches_its_wish_without_overshooting(limits):
    safety = made(PLAIN, joints("joint_position", **limits))
    path = [safety.apply((0.8, -0.8), (0.0, 0.0))[0] for _ in range(200)]
    assert path[-1] == pytest.approx(0.8, abs=1e-4) and max(path) <= 0.8 + 5e-3


# --- values ---


@pytest.mark.parametrize(
    ("kind", "on_hold"), [("gripper", "last"), ("gripper", "measured"), ("generic", 0.5), ("joint_effort", "zero")]
)
@given(st.floats(-2.0, 2.0), wishes)
def test_a_value_keeps_its_range_and_rate_and_goes_to_its_hold(kind, on_hold, measured, wishes):
    safety = made(PLAIN, joints(kind, on_hold=on_hold, max_rate=4.0))
    before = safety.apply(None, (measured, measured))
    for wish in wishes:
        command = safety.apply(wish, (measured, measured))
        assert all(abs(value) <= 1.0 for value in command)
        assert all(abs(a - b) <= 4.0 * PERIOD + 1e-9 for a, b in zip(command, before, strict=True))
        before = command
    last = safety.command
    for _ in range(60):
        safety.apply(None, (measured, measured))
    first = min(max(measured, -1.0), 1.0)
    expected = {"last": last, "measured": [first, first], 0.5: [0.5, 0.5], "zero": [0.0, 0.0]}[on_hold]
    assert safety.command == pytest.approx(expected) and safety.at_rest and safety.violations == 0


# --- all of it ---


def test_groups_go_each_to_its_own_command_on_hold():
    arm = joints("joint_velocity", on_hold="zero").action_groups[0].model_dump()
    hand = joints("gripper", 1, on_hold="last").action_groups[0].model_dump()
    for place, part in enumerate((*arm["components"], *hand["components"])):
        part.update(index=place, name=f"a{place}")
    hand |= {"name": "hand", "output": {**hand["output"], "topic": "~/hand"}}
    content = joints("joint_velocity", on_hold="zero").model_dump()
    safety = made(PLAIN, PolicySpec.model_validate({**content, "action_groups": [arm, hand]}))
    assert safety.apply((0.5, -0.5, 0.8), (0.1, 0.1)) == [0.5, -0.5, 0.8]
    assert safety.apply(None, (0.1, 0.1)) == [0.0, 0.0, 0.8]


def test_a_preview_is_what_follows_and_changes_nothing():
    safety, twin = (made(PLAIN, joints("joint_position", max_velocity=2.0)) for _ in range(2))
    chunk = np.linspace(0.0, 0.4, 8)[:, None].repeat(2, axis=1)
    for one in (safety, twin):
        one.apply((0.0, 0.0), (0.0, 0.0))
    ahead = safety.preview(chunk, 0.05)
    assert len(ahead) == 8 and ahead[-1] == pytest.approx([0.4, 0.4])
    assert safety.command == [0.0, 0.0] and safety.interventions == 0
    assert safety.apply((0.1, 0.1), (0.0, 0.0)) == twin.apply((0.1, 0.1), (0.0, 0.0))
    assert safety.preview([], 0.05) == []
