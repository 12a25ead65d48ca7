"""A spec and a recipe out of a bag, a LeRobot dataset, a Minari dataset, a D4RL file or an environment."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from arm import AXES, LENGTHS, forward
from bags import record

from srdp_controller import cli
from srdp_controller.kinematics import ForwardKinematics
from srdp_controller.offline.data.imported import imported_trajectories
from srdp_controller.offline.dataset import Trajectory
from srdp_controller.offline.init.urdf import read_urdf
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.spec import load_spec
from srdp_controller.tasks.task import find_task

TASK = find_task("tests.robots.arm:Arm")
URDF = """<robot name="arm">
  <joint name="joint_1" type="revolute"><limit lower="-2.9" upper="2.9" velocity="1.5" effort="87"/></joint>
  <joint name="gripper" type="prismatic"><limit lower="0.0" upper="0.09" velocity="0.2" effort="20"/></joint>
  <joint name="base" type="fixed"/>
</robot>"""


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return record(tmp_path_factory.mktemp("bag") / "arm.mcap", TASK, 8)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def srdp(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out + said.err


def test_a_bag_becomes_a_spec_that_says_what_each_command_does_to_which_joint(bag, capsys):
    status, said = srdp(capsys, "init", "arm", "--bag", bag)
    assert status == 0 and "8 episodes" in said and "to decide" not in said
    spec, known = load_spec(Path("arm/spec.yaml")), TASK.spec()
    kinds = {group.output.topic: group.kind for group in spec.action_groups}
    assert kinds == {group.output.topic: group.kind for group in known.action_groups}
    assert [one.measured_by for one in spec.action] == [*(f"joint_{number}" for number in range(1, 8)), "gripper"]
    assert {group.on_hold for group in spec.action_groups} == {"zero", "last"}
    assert (spec.control_rate_hz, spec.horizon) == (20.0, 8)
    # how fast the demonstrator changed his commands, and where the joints were
    assert all(5.0 < one.max_acceleration < 40.0 for one in spec.action[:7]) and 0.2 < spec.action[7].max_rate < 2.0
    seen = {one.name: (one.lower, one.upper) for one in spec.observation}
    assert [(one.position_lower, one.position_upper) for one in spec.action[:7]] == [
        seen[f"joint_{number}"] for number in range(1, 8)
    ]
    assert spec.action[7].lower == 0.0
    rotations = [one for one in spec.observation if one.source.kind == "rotation"]
    assert len(rotations) == 12  # six of each pose, and no quaternion
    assert srdp(capsys, "check", "arm/recipe.yaml")[0] == 0


def test_topics_are_chosen_by_name_and_limits_come_from_a_urdf(bag, capsys, tmp_path):
    (tmp_path / "arm.urdf").write_text(URDF)
    arguments = ["--observe", "/joint_states", "/object_pose", "--command", "/arm_controller/commands"]
    assert srdp(capsys, "init", "arm", "--bag", bag, "--urdf", "arm.urdf", "--rate", "10", *arguments)[0] == 0
    spec = load_spec(tmp_path / "arm" / "spec.yaml")
    assert {one.source.topic for one in spec.observation} == {"/joint_states", "/object_pose"}
    assert len(spec.action_groups) == 1 and spec.control_rate_hz == 10.0
    assert (spec.action[0].position_lower, spec.action[0].position_upper) == (-2.9, 2.9)
    assert (spec.observation[0].lower, spec.observation[0].upper) == (-2.9, 2.9)
    assert "Not used: /gripper/commands, /tool_pose" in (tmp_path / "arm" / "spec.yaml").read_text()


def test_poses_are_seen_from_the_tool_where_one_is_named(bag, capsys, tmp_path):
    assert srdp(capsys, "init", "arm", "--bag", bag, "--tool", "/tool_pose")[0] == 0
    spec = load_spec(tmp_path / "arm" / "spec.yaml")
    seen = [one for one in spec.observation if one.source.kind == "relative_pose"]
    assert [one.source.coordinate for one in seen] == ["x", "y", "z"]
    assert {(one.source.topic, one.source.to.topic) for one in seen} == {("/object_pose", "/tool_pose")}
    assert all(one.lower < 0.0 < one.upper for one in seen)  # at the end the tool is where the object is
    assert srdp(capsys, "check", "arm/recipe.yaml")[0] == 0
    status, said = srdp(capsys, "init", "other", "--bag", bag, "--tool", "/joint_states")
    assert status == 2 and "expected geometry_msgs/msg/PoseStamped" in said


@pytest.mark.parametrize(
    ("file", "tip", "joints"),
    [
        ("franka_panda/panda.urdf", "", 7),
        ("franka_panda/panda.urdf", "panda_grasptarget", 7),
        ("kuka_iiwa/model.urdf", "", 7),
        ("r2d2.urdf", "head", 1),
    ],
)
def test_a_urdfs_chain_puts_the_tool_where_pybullet_does(file, tip, joints):
    pybullet = pytest.importorskip("pybullet")
    import pybullet_data

    path = Path(pybullet_data.getDataPath()) / file
    urdf = read_urdf(path, tip)
    forward = ForwardKinematics(urdf.chain)
    assert len(forward.joint_names) == joints
    client = pybullet.connect(pybullet.DIRECT)
    try:
        robot = pybullet.loadURDF(str(path), useFixedBase=True, physicsClientId=client)
        info = [pybullet.getJointInfo(robot, i, client) for i in range(pybullet.getNumJoints(robot, client))]
        place, link = ({one[at].decode(): one[0] for one in info} for at in (1, 12))
        rng = np.random.default_rng(0)
        for _ in range(20):
            angles = rng.uniform(-1.5, 1.5, joints)
            for name, angle in zip(forward.joint_names, angles, strict=True):
                pybullet.resetJointState(robot, place[name], angle, physicsClientId=client)
            expected = pybullet.getLinkState(robot, link[urdf.tip], 0, 1, client)[4]
            assert forward.tip_position(angles.tolist()) == pytest.approx(expected, abs=1e-6)
    finally:
        pybullet.disconnect(client)


AXIS = {"y": "0 1 0", "z": "0 0 1"}


def arm_urdf():
    """The seven-joint arm of tests/robots as a URDF."""
    lines = ['<robot name="arm">']
    before, height = "base", 0.0
    for number, (axis, length) in enumerate(zip(AXES, LENGTHS, strict=True), start=1):
        lines.append(
            f'<joint name="joint_{number}" type="revolute"><parent link="{before}"/><child link="link_{number}"/>'
            f'<origin xyz="0 0 {height}"/><axis xyz="{AXIS[axis]}"/>'
            f'<limit lower="-2.9" upper="2.9" velocity="1.5" effort="87"/></joint>'
        )
        before, height = f"link_{number}", length
    lines.append(
        f'<joint name="flange" type="fixed"><parent link="{before}"/><child link="tool"/>'
        f'<origin xyz="0 0 {height}"/></joint>'
    )
    return "\n".join([*lines, "</robot>"])


def test_where_no_tool_is_recorded_the_urdfs_chain_says_where_it_is(bag, capsys, tmp_path):
    (tmp_path / "arm.urdf").write_text(arm_urdf())
    arguments = ["--observe", "/joint_states", "/object_pose", "--urdf", "arm.urdf"]
    assert srdp(capsys, "init", "arm", "--bag", bag, *arguments)[0] == 0
    spec = load_spec(tmp_path / "arm" / "spec.yaml")
    seen = [one for one in spec.observation if one.source.kind == "kinematics"]
    assert [one.name for one in seen] == ["tool_x", "tool_y", "tool_z"]
    joints = np.random.default_rng(0).uniform(-1.0, 1.0, 7)
    tip = ForwardKinematics(spec.kinematics["arm"]).tip_position(joints.tolist())
    assert tip == pytest.approx(forward(joints)[0], abs=1e-6)
    assert srdp(capsys, "check", "arm/recipe.yaml")[0] == 0
    status, said = srdp(capsys, "init", "other", "--bag", bag, *arguments, "--tip", "hand")
    assert status == 2 and "no such link in arm.urdf; there are base, link_1" in said


def lerobot(folder, episodes=30, version="v3"):
    """A LeRobot dataset of a motor that is led to zero."""
    rng = np.random.default_rng(0)
    names = {"motors": ["shoulder.pos", "elbow.pos"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": names},
        "action": {"dtype": "float32", "shape": [2], "names": names},
        "observation.images.front": {"dtype": "video", "shape": [480, 640, 3]},
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(
        json.dumps({"codebase_version": version, "fps": 30, "features": features})
    )
    rows = {"observation.state": [], "action": [], "episode_index": [], "frame_index": []}
    for episode in range(episodes):
        state = rng.uniform(-1, 1, 2)
        for frame in range(20):
            action = 0.8 * state
            for name, value in zip(rows, (state.tolist(), action.tolist(), episode, frame), strict=True):
                rows[name].append(value)
            state = action + 0.01 * rng.standard_normal(2)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "data" / "chunk-000" / "file-000.parquet")
    return folder


def test_a_lerobot_dataset_keeps_its_names_its_rate_and_its_episodes(capsys, tmp_path):
    lerobot(tmp_path / "set")
    status, said = srdp(capsys, "init", "led", "--lerobot", "set")
    assert status == 0 and "30 episodes" in said
    assert said.count("to decide") == 2  # of what kind the command is, and what stops the robot
    spec = load_spec(tmp_path / "led" / "spec.yaml")
    assert [one.name for one in spec.observation] == ["shoulder_pos", "elbow_pos"] and spec.control_rate_hz == 30.0
    recipe = load_recipe(tmp_path / "led" / "recipe.yaml")
    found = imported_trajectories(tmp_path / "runs", recipe, spec, lambda *_: None)
    assert len(found) == 30 and isinstance(found[0], Trajectory) and found[0].action.shape == (19, 2)
    assert found[0].action[1] == pytest.approx(0.8 * found[0].observation[1], abs=1e-6)
    assert srdp(capsys, "check", "led/recipe.yaml")[0] == 0
    status, said = srdp(capsys, "check", "led/recipe.yaml", "--set", "data.dataset=nowhere")
    assert status == 2 and "no LeRobot dataset" in said


def test_a_d4rl_file_leaves_its_rate_to_be_decided(capsys, tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        file["observations"] = np.cumsum(rng.standard_normal((400, 3)), axis=0)
        file["actions"] = rng.uniform(-1, 1, (400, 2))
        file["terminals"] = np.arange(400) % 20 == 19
    status, said = srdp(capsys, "init", "walker", "--d4rl", "data.hdf5")
    assert status == 0 and "20 episodes" in said and "does not say at what rate" in said
    assert srdp(capsys, "check", "walker/recipe.yaml")[0] == 0


def test_an_environment_asks_for_who_demonstrates(capsys, tmp_path):
    status, said = srdp(capsys, "init", "pendulum", "--gymnasium", "Pendulum-v1")
    assert status == 0 and "to decide: collect: {episodes: 240, expert: 'module:Class'}" in said
    recipe = yaml.safe_load((tmp_path / "pendulum" / "recipe.yaml").read_text())
    assert recipe["task"] == "gymnasium:Pendulum-v1"
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\nclass Still:\n    def __init__(self, rng): pass\n    def reset(self): pass\n"
        "    def act(self, truth): return np.zeros(1)\n"
    )
    os.sys.path.insert(0, str(tmp_path))
    arguments = ("--set", "collect.expert=mine:Still")
    assert srdp(capsys, "check", "pendulum/recipe.yaml", *arguments)[0] == 0


WRONG = [  # ways to go wrong: each is one message, with status 2
    (["init", "x"], "give one of --bag, --graph, --lerobot"),
    (["init", "x", "--bag", "BAG", "--d4rl", "f"], "got --bag and --d4rl"),
    (["init", "x", "--bag", "nowhere"], "no such file or folder"),
    (["init", "x", "--bag", "text.txt"], "no MCAP file"),
    (["init", "x", "--bag", "broken.mcap"], "mcap recover"),
    (["init", "x", "--bag", "BAG", "--observe", "/joint_state"], "no topic /joint_state; the bag has /arm_controller"),
    (
        ["init", "x", "--bag", "BAG", "--command", "/joint_states"],
        "--command /joint_states is sensor_msgs",
    ),
    (["init", "x", "--bag", "BAG", "--rate", "-5"], "expected a positive number of Hz"),
    (["init", "x", "--bag", "BAG", "--rate", "fast"], "--rate"),
    (["init", "x", "--bag", "BAG", "--urdf", "nowhere.urdf"], "--urdf nowhere.urdf: No such file"),
    (["init", "x", "--bag", "BAG", "--urdf", "text.txt"], "expand a xacro first"),
    (["init", "x", "--lerobot", "."], "no LeRobot dataset"),
    (["init", "x", "--lerobot", ".", "--observe", "/a"], "choose what is observed of a --bag or --graph"),
    (["init", "x", "--minari", "no/such-v0"], "no readable Minari dataset"),
    (["init", "x", "--d4rl", "text.txt"], "not a readable HDF5 file"),
    (["init", "x", "--gymnasium", "Nothing-v0"], "Nothing"),
    (["init", "x", "--gymnasium", "Pendulum-v1", "--bag", "BAG"], "got --bag and --gymnasium"),
    (["init", "x", "--gymnasium", "Pendulum-v1", "--lerobot", "LEROBOT"], "2 observations, Pendulum-v1 has 3"),
    (["init", "x", "--bag", "BAG", "--expert", "a:B"], "--expert demonstrates in a --gymnasium environment"),
    (["init", "x", "--bag", "BAG", "--keys", "a"], "--keys choose observations of a --minari dataset"),
    (["init", "x", "--bag", "BAG", "--tip", "hand"], "Give --urdf, or record /robot_description"),
    (["init", "x", "--graph", "-3"], "expected a positive number of seconds"),
    (["check", "calls.yaml"], "episodes: calls needs begin"),
    (["check", "nowhere.yaml"], "nowhere.yaml"),
    (["check", "text.txt"], "text.txt"),
    (["check", "typo.yaml"], "teacher.stepz: unknown; did you mean steps?; field distill.chainsteps: unknown"),
    (["check", "spec.yaml"], "field observation: Input should be"),
    (["init", "x", "--bag", "empty.mcap"], "an empty file"),
    (["check", "nospec.yaml"], "no readable spec"),
    (["check", "nobag.yaml"], "data.dataset is empty"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_what_is_wrong_is_one_message_that_names_it(arguments, message, bag, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "broken.mcap").write_bytes(bag.read_bytes()[:5000])
    (tmp_path / "typo.yaml").write_text("task: pushing\nteacher: {stepz: 3}\ndistill: {chainsteps: 2}\n")
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "nospec.yaml").write_text("task: x\ndata: {source: bag, dataset: nowhere, spec: nowhere.yaml}\n")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(TASK.spec().model_dump(mode="json", exclude_none=True)))
    (tmp_path / "calls.yaml").write_text("task: x\ndata: {source: bag, bag: {episodes: calls}}\n")
    lerobot(tmp_path / "set")
    (tmp_path / "nobag.yaml").write_text("task: x\ndata: {source: bag, spec: spec.yaml}\n")
    try:
        status, said = srdp(capsys, *[{"BAG": bag, "LEROBOT": "set"}.get(one, one) for one in arguments])
    except SystemExit as ended:
        status, said = ended.code, "".join(capsys.readouterr())
    assert status == 2, said
    assert message in said
    assert not (tmp_path / "x").exists()


def test_files_that_are_there_are_not_overwritten(bag, capsys, tmp_path):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "spec.yaml").write_text("mine")
    status, said = srdp(capsys, "init", "arm", "--bag", bag)
    assert status == 2 and "--overwrite replaces it" in said
    assert (tmp_path / "arm" / "spec.yaml").read_text() == "mine"
