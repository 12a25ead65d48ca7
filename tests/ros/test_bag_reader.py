"""What the controller observes is what the bag reader observes, on the same messages, to the bit."""

import pytest

pytest.importorskip("rclpy")

import numpy as np
import rclpy
from bags import record
from mcap.reader import make_reader
from rclpy.node import Node

from srdp_controller.observation import ObservationAssembler
from srdp_controller.offline.data.bag import import_bags
from srdp_controller.offline.recipe import BagRecipe
from srdp_controller.ros.inputs import Inputs
from srdp_controller.tasks.task import find_task

pytestmark = pytest.mark.ros


class Played:
    """A subscription whose newest message is the bag's."""

    newest: dict = {}  # noqa: RUF012

    def __init__(self, node, message_type, topic, qos):
        self._topic = topic

    def take(self):
        return Played.newest.pop(self._topic, None)

    def close(self):
        pass


def test_the_controller_and_the_bag_reader_observe_the_same_to_the_bit(tmp_path):
    task = find_task("tests.robots.arm:Arm")
    spec = task.spec()
    bag = record(tmp_path / "bag.mcap", task, 2)
    found = import_bags(bag, spec, BagRecipe(), lambda *_: None)
    with bag.open("rb") as file:
        messages = [
            (message.log_time, channel.topic, message.data)
            for _, channel, message in make_reader(file).iter_messages(log_time_order=True)
        ]
    rclpy.init()
    node = Node("bag_reader_test")
    try:
        begins = [time_ns for time_ns, topic, data in messages if topic == "/episode" and b"begin" in data]
        compared = 0
        for begin_ns, trajectory in zip(begins, found.trajectories, strict=True):
            assembler = ObservationAssembler(spec)
            inputs = Inputs(node, assembler, subscription=Played)
            rest = [one for one in messages if one[0] >= begin_ns]
            for number, expected in enumerate([*trajectory.observation, trajectory.last]):
                now_ns = begin_ns + number * round(spec.step_s * 1e9)
                while rest and rest[0][0] <= now_ns:
                    _, topic, data = rest.pop(0)
                    Played.newest[topic] = data, 1
                inputs.take(now_ns)
                assert inputs.refused == 0, inputs.refused_reason
                assert assembler.vector[spec.sensor_indices()].tobytes() == np.asarray(expected).tobytes()
                compared += 1
        assert compared > 50
    finally:
        node.destroy_node()
        rclpy.shutdown()
