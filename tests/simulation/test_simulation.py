import numpy as np
import pytest

from srdp_controller.errors import ScenarioError, SpecError
from srdp_controller.simulation.actuation import DelayedActuator
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.simulation.scenario import Actuation, Scenario, Sensor, SensorFault, load_scenario
from srdp_controller.simulation.sensors import FaultInjector, Measurement, SensorStream
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.spec import PolicySpec

ARRAY = "std_msgs/msg/Float64MultiArray"


def joint_spec(**extra):
    """Two joints with position commands, which stay where they are when commands stay away."""
    joints = [f"joint_{number}" for number in (1, 2)]
    states = {"kind": "topic", "topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    limits = {"unit": "rad", "lower": -3.0, "upper": 3.0}
    observation = [{"name": name, **limits, "source": {**states, "field": f"position[{name}]"}} for name in joints]
    observation.append(
        {
            "name": "load",
            "unit": "1",
            "lower": -9.0,
            "upper": 9.0,
            "source": {"kind": "topic", "topic": "/load", "type": ARRAY, "field": "data[0]"},
        }
    )
    group = {
        "name": "arm",
        "kind": "joint_position",
        "components": [
            {"name": f"goal_{n}", **limits, "field": f"data[{n}]", "measured_by": name} for n, name in enumerate(joints)
        ],
        "output": {"type": ARRAY},
        "on_hold": "last",
    }
    content = {"task": "joints", "observation": observation, "action_groups": [group], "horizon": 4}
    return PolicySpec.model_validate({**content, "control_rate_hz": 10.0, **extra})


class JointWorld(SimulatedWorld):
    """Joints that are where they are told to be; lists them in an order of its own, beside one nobody asks for."""

    def __init__(self, scenario, spec):
        joints = TopicLayout("sensor_msgs/msg/JointState", tuple(f"position[joint_{n}]" for n in (2, 3, 1)))
        super().__init__(
            scenario, spec, {"/joint_states": joints, "/load": TopicLayout(ARRAY, ("data[0]",), "", True)}, 0.01
        )

    def _begin(self, rng):
        self.position = rng.uniform(-1.0, 1.0, 2).tolist()
        return Outcome()

    def _start_command(self):
        return self.position

    def _advance(self, command):
        self.position = list(command)

    def _true_values(self, topic):
        return [self.position[1], 7.0, self.position[0]] if topic == "/joint_states" else [0.5]


def scenario(**fields):
    return Scenario(name="test", **fields)


# --- scenarios ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nactuation: {delay: 1}", "actuation.delay"),
        ("name: x\nactuation: {delay_s: -1}", "actuation.delay_s"),
        ("name: [", "not valid YAML"),
        ("{}", "name"),
    ],
)
def test_a_wrong_scenario_names_file_and_field(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(path, Scenario, "pushing")
    assert "wrong.yaml" in str(caught.value)


def test_an_unknown_scenario_lists_those_of_its_task():
    with pytest.raises(ScenarioError, match=r"delayed.*nominal"):
        load_scenario("windy", Scenario, "pushing")
    with pytest.raises(ScenarioError, match="there are: nominal, or"):
        load_scenario("delayed", Scenario, "gymnasium:Pendulum-v1")


def test_a_task_without_files_has_a_nominal_scenario():
    nominal = load_scenario("nominal", Scenario, "gymnasium:Pendulum-v1")
    assert nominal.name == "nominal" and nominal.actuation.delay_s == 0.0 and nominal.sensors == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"sensors": {"/lidar": Sensor(rate_hz=10.0)}},
        {"faults": (SensorFault(stream="lidar", kind="nan", start_s=0.0, duration_s=1.0),)},
    ],
)
def test_a_scenario_of_a_topic_that_is_not_there_is_refused(fields):
    with pytest.raises(ScenarioError, match=r"/lidar.*there are: /joint_states, /load"):
        JointWorld(scenario(**fields), joint_spec())


# --- actuation ----------------------------------------------------------------------------------


def actuator(watchdog=(0.0,), rng=None, **parameters):
    start = [value or 0.0 for value in watchdog]
    return DelayedActuator(Actuation(**parameters), watchdog, start, rng or np.random.default_rng(0))


def test_commands_take_effect_after_the_delay():
    drives = actuator(delay_s=0.1)
    drives.send([0.2], now=0.0)
    assert drives.in_force(0.09) == [0.0]
    assert drives.in_force(0.10) == [0.2]


def test_when_commands_stay_away_velocities_stop_and_positions_stay():
    drives = actuator((0.0, None, 0.4), hold_s=0.3)
    drives.send([0.2, 0.2, 0.2], now=0.0)
    assert drives.in_force(0.3) == [0.2, 0.2, 0.2]
    assert drives.in_force(0.35) == [0.0, 0.2, 0.4]


def test_a_command_overtaken_by_a_later_one_is_dropped():
    class Jitter:
        values = iter([2.0, 0.0])

        def standard_normal(self):
            return next(self.values)

    drives = actuator(rng=Jitter(), delay_s=0.1, jitter_s=0.1)
    drives.send([0.1], now=0.0)  # due at 0.3
    drives.send([0.2], now=0.1)  # due at 0.2
    drives.in_force(0.25)
    assert drives.in_force(0.35) == [0.2]


def test_lost_commands_are_lost_at_the_given_rate():
    drives = actuator(loss=0.3)
    arrived = 0
    for number in range(2000):
        drives.send([float(number)], now=number * 0.01)
        arrived += drives.in_force(number * 0.01) == [float(number)]
    assert 1320 < arrived < 1480


# --- sensors ------------------------------------------------------------------------------------


def test_a_sensor_has_rate_latency_and_drops():
    sensor = SensorStream(Sensor(rate_hz=60.0, latency_s=0.03, drop=0.5), 1, np.random.default_rng(1))
    got = []
    for step in range(2400):
        now = step / 240
        if sensor.due(now):
            sensor.sample(np.array([now]), now)
        measurement = sensor.published(now)
        if measurement is not None:
            got.append(now - measurement.measured_s)
    assert 230 < len(got) < 370  # half of 600
    assert all(0.03 - 1e-9 <= latency < 0.03 + 1.5 / 240 for latency in got)


def test_quantisation_rounds_to_the_step():
    sensor = SensorStream(Sensor(rate_hz=10.0, quantisation=0.01), 1, np.random.default_rng(0))
    sensor.sample(np.array([0.1234]), 0.0)
    assert sensor.published(0.0).values[0] == pytest.approx(0.12)


def test_each_fault_of_a_stream_does_what_it_says_and_only_in_its_time():
    def published(kind, now, values=(1.0, 2.0, 3.0)):
        fault = SensorFault(stream="object_pose", kind=kind, start_s=1.0, duration_s=0.5)
        injector = FaultInjector((fault,), "/object_pose")
        injector.apply(Measurement(np.zeros(3), now - 0.1, now - 0.07), now - 0.1)
        return injector.apply(Measurement(np.array(values), now, now + 0.03), now)

    for kind in ("silent", "nan", "truncated", "stale", "duplicated"):
        for outside in (0.9, 1.5):
            (healthy,) = published(kind, outside)
            assert healthy.values.tolist() == [1.0, 2.0, 3.0] and healthy.measured_s == outside
    assert published("silent", 1.2) == []
    assert np.isnan(published("nan", 1.2)[0].values).all()
    assert np.isinf(published("infinite", 1.2)[0].values).all()
    assert (published("out_of_range", 1.2)[0].values > 50.0).all()
    assert len(published("truncated", 1.2)[0].values) == 2
    assert published("stale", 1.2)[0].measured_s == pytest.approx(0.7)
    assert published("future", 1.2)[0].measured_s == pytest.approx(1.7)
    assert [m.measured_s for m in published("duplicated", 1.2)] == [1.2, 1.2]
    assert [m.measured_s for m in published("reordered", 1.2)] == [1.2, pytest.approx(1.1)]
    assert published("frozen", 1.15)[0].values.tolist() == [0.0, 0.0, 0.0]


# --- worlds -------------------------------------------------------------------------------------


def test_a_world_publishes_every_tick_and_repeats_latched_topics_at_20_hz():
    world = JointWorld(scenario(), joint_spec())
    assert [message.topic for message in world.measurements()] == ["/joint_states", "/load"]
    for _ in range(10):
        world.tick()
    messages = world.measurements()
    assert [message.topic for message in messages].count("/joint_states") == 10
    assert [message.measured_s for message in messages if message.topic == "/load"] == pytest.approx([0.05, 0.1])
    assert world.measurements() == []


def test_the_observation_finds_its_fields_in_a_worlds_own_order():
    observed = ObservedWorld(JointWorld(scenario(), joint_spec()), joint_spec())
    observed.reset(np.random.default_rng(3))
    assert observed.observation.tolist() == pytest.approx([*observed.world.position, 0.5])
    observed.send([0.25, -0.5])
    observed.tick()
    assert observed.observation.tolist() == pytest.approx([0.25, -0.5, 0.5])


def test_a_reset_waits_until_every_sensor_has_spoken_with_the_robot_at_rest():
    late = scenario(sensors={"/joint_states": Sensor(rate_hz=50.0, latency_s=0.04)})
    observed = ObservedWorld(JointWorld(late, joint_spec()), joint_spec())
    observed.reset(np.random.default_rng(3))
    start = np.random.default_rng(3).uniform(-1.0, 1.0, 2)
    assert observed.world.time_s == pytest.approx(0.04)
    assert observed.observation[:2].tolist() == pytest.approx(start.tolist(), abs=1e-6)
    assert observed.world.position == start.tolist()


def test_the_observation_knows_the_commands_that_were_sent():
    spec = joint_spec().extended(commands=1)
    observed = ObservedWorld(JointWorld(scenario(), spec), spec)
    observed.reset(np.random.default_rng(0))
    for number in range(15):
        observed.send([0.1 * number, 0.0])
        observed.tick()
    past = spec.observation_index("past_1_goal_0")  # a control step of 0.1 s ago; now it is 0.15 s
    assert observed.observation[past] == pytest.approx(0.5)


def test_a_spec_that_observes_what_a_world_does_not_publish_is_refused():
    def refused(message, **source):
        spec = joint_spec().model_dump()
        spec["observation"][2]["source"].update(source)
        with pytest.raises(SpecError, match=message):
            ObservedWorld(JointWorld(scenario(), joint_spec()), PolicySpec.model_validate(spec))

    refused("observes /weight; the world publishes /joint_states, /load", topic="/weight")
    refused(r"observes data\[3\], the world fills", field="data[3]")
    refused("expects frame 'table', the world's is ''", frame="table")
    refused("expects geometry_msgs/msg/Point, ", type="geometry_msgs/msg/Point", field="x")


def test_an_episode_ends_at_the_scenarios_time_limit_and_its_outcome_stands():
    world = JointWorld(scenario(time_limit_s=0.2), joint_spec())
    for _ in range(30):
        world.tick()
    assert world.outcome.finished and world.outcome.duration_s == pytest.approx(0.2)
    assert world.time_s == pytest.approx(0.3)


def test_an_episode_repeats_for_its_seed():
    noisy = scenario(
        actuation=Actuation(delay_s=0.02, jitter_s=0.01, loss=0.2),
        sensors={"/joint_states": Sensor(rate_hz=50.0, noise=0.01, bias=0.01, drop=0.2)},
    )

    def observations(seed):
        observed = ObservedWorld(JointWorld(noisy, joint_spec()), joint_spec())
        rows = []
        for _ in range(2):  # what came before an episode does not matter to it
            observed.reset(np.random.default_rng(seed))
            rows.append([])
            for step in range(40):
                observed.send([0.01 * step, 0.0])
                observed.tick()
                rows[-1].append(observed.observation.tolist())
        assert rows[0] == rows[1]
        return rows[0]

    assert observations(7) == observations(7)
    assert observations(7) != observations(8)
