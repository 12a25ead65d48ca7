"""Controller and robot as real processes over real DDS."""

import math
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from box import BOX_BUNDLE
from lifecycle_msgs.srv import GetState

from srdp_controller.control.statistics import Statistics
from srdp_controller.engines.bundle import CandidatesChoice, load_bundle, write_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.report.run import judge, summarise_run
from srdp_controller.ros.client import get_parameters, set_parameters
from srdp_controller.ros.loop_thread import LoopThread

pytestmark = pytest.mark.ros


def set_engine(node, engine, timeout_s):
    set_parameters(node, {"engine": engine}, timeout_s)


def get_engine(node, timeout_s):
    return get_parameters(node, ["engine"], timeout_s)["engine"]


def speed(message):
    return math.hypot(message.twist.linear.x, message.twist.linear.y)


def test_robot_and_controller_push_the_disc_and_the_run_is_sound(start, tmp_path, read_json):
    robot = start("robot_node", duration=14.0, seed=1)
    controller = start("controller_node", engine="student_k4", record=True)
    assert robot.wait(90) == 0
    assert controller.end() == 0, controller.output
    summary = summarise_run(tmp_path)
    assert not judge(summary)
    assert summary["commands"] == summary["cycles"] > 1000
    assert summary["successes"] >= 1
    assert summary["limit_violations"] == summary["bad_commands"] == 0
    for key in ("period_error_us", "inference_us", "latency_us", "observation_age_ms"):
        assert set(summary[key]) == {"p50", "p99", "p999", "max"}
    for name in ("summary.json", "run.png", "episode.gif", "telemetry.csv", "recording.mcap"):
        assert (tmp_path / name).stat().st_size > 0
    assert "Traceback" not in controller.output + robot.output


def test_swaps_under_load_lose_no_command(start, bench, read_json):
    controller = start("controller_node", engine="student_k1", update_rate=200.0)
    assert bench.until("STUDENT"), controller.output
    for engine in ("student_k8", "student_k2", "student_k1", "student_k4"):
        set_engine(bench.node, engine, 10.0)
        bench.run(0.6)
        assert get_engine(bench.node, 10.0) == engine
    for candidates in (16, 1, 16):
        set_parameters(bench.node, {"sampling.candidates": candidates}, 10.0)
        bench.run(0.6)
        assert get_parameters(bench.node, ["sampling.candidates"], 10.0) == {"sampling.candidates": candidates}
        assert bench.mode == "STUDENT"
    assert controller.end() == 0
    result = read_json("controller.json")
    assert result["cycles_before_ready"] == 0
    assert result["swaps"] == 7 and result["engine"] == "student_k4"
    assert [entry["candidates"] for entry in result["engines"]] == [1, 1, 1, 1, 1, 16, 1, 16]
    assert len(result["engines"]) == 8 and result["engines"][-1]["engine"] == "student_k4"
    assert result["commands"] == result["cycles"]
    assert result["limit_violations"] == 0


def test_a_wrong_engine_is_refused_with_the_reason_and_the_old_one_goes_on(start, bench):
    start("controller_node", engine="student_k1")
    assert bench.until("STUDENT")
    with pytest.raises(SrdpError, match="student_k8"):
        set_engine(bench.node, "student_k3", 10.0)
    assert get_engine(bench.node, 10.0) == "student_k1"
    bench.run(0.2)
    assert bench.mode == "STUDENT"


def test_the_bundles_choice_of_candidates_drives_where_it_fits_the_period(start, bench, bundle_copy, read_json):
    content = load_bundle(bundle_copy).content
    facts = {"scenario": "nominal", "update_rate_hz": 200.0, "episodes": 1, "successes": {1: 0}}
    chosen = {
        "student_k1": CandidatesChoice(candidates=4, **facts),
        "student_k8": CandidatesChoice(candidates=256, **facts),
    }
    write_bundle(bundle_copy, content.model_copy(update={"candidates": chosen}))
    controller = start("controller_node", engine="student_k1", update_rate=200.0, model_dir=str(bundle_copy))
    assert bench.until("STUDENT"), controller.output
    set_engine(bench.node, "student_k8", 10.0)
    for _ in range(100):
        bench.run(0.2)
        if "engine student_k8" in controller.output and "drives" in controller.output.rpartition("student_k8")[2]:
            break
    assert get_parameters(bench.node, ["sampling.candidates"], 10.0) == {"sampling.candidates": 0}
    assert controller.end() == 0
    engines = [(entry["engine"], entry["candidates"]) for entry in read_json("controller.json")["engines"]]
    assert engines == [("student_k1", 4), ("student_k8", 1)]
    assert "one chunk is sampled, not as many as the bundle says" in controller.output


def test_a_whole_bundle_is_swapped_and_a_damaged_or_foreign_one_refused(start, bench, tmp_path, model_dir, read_json):
    other, broken = tmp_path / "other", tmp_path / "broken"
    shutil.copytree(model_dir, other)
    shutil.copytree(model_dir, broken)
    graph = broken / "student_k1.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    controller = start("controller_node", engine="student_k1")
    assert bench.until("STUDENT"), controller.output
    set_parameters(bench.node, {"model_dir": str(other), "engine": "student_k2"}, 10.0)
    bench.run(1.5)
    assert get_parameters(bench.node, ["model_dir"], 10.0) == {"model_dir": str(other)}
    set_parameters(bench.node, {"model_dir": str(broken), "engine": "student_k1"}, 10.0)  # found out when it is read
    bench.run(1.5)
    kept = get_parameters(bench.node, ["model_dir", "engine"], 10.0)
    assert kept == {"model_dir": str(other), "engine": "student_k2"}
    with pytest.raises(SrdpError, match="nowhere"):
        set_parameters(bench.node, {"model_dir": "nowhere"}, 10.0)
    set_parameters(bench.node, {"provider": "cuda"}, 10.0)
    bench.run(1.0)
    assert bench.mode == "STUDENT"
    assert controller.end() == 0
    assert "damaged" in controller.output and "CUDAExecutionProvider" in controller.output
    result = read_json("controller.json")
    assert result["swaps"] == 1 and result["commands"] == result["cycles"]


def test_top_shows_the_running_controller(start, bench, tmp_path, read_json):
    controller = start("controller_node", engine="student_k2")
    assert bench.until("STUDENT"), controller.output
    command = [
        sys.executable,
        "-m",
        "srdp_controller.cli",
        "top",
        "--duration",
        "8",
        "--json",
        str(tmp_path / "t.json"),
    ]
    shown = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while shown.poll() is None:
        bench.run(0.2)
    text = shown.stdout.read()
    assert shown.returncode == 0
    assert "student_k2 at 100 Hz" in text and "lateness [us]" in text and "STUDENT" in text
    values = read_json("t.json")["values"]
    assert float(values["recent_inference_p50_us"]) > 0 and int(values["cycles"]) > 50
    assert controller.end() == 0
    assert read_json("controller.json")["by_mode"]["STUDENT"]["observation_age_ms"]["p50"] > 0


def test_a_tool_is_kept_out_of_a_zone(start, bench, read_json):
    controller = start("controller_node", **{"safety.keep_out": [-0.17, 0.045, 0.03]})  # right before the tip
    assert bench.until("STUDENT"), controller.output
    bench.commands.clear()
    bench.run(1.0)
    assert len(bench.commands) > 50
    # the tip stands 1 cm from the zone, where at most 4 cm/s lead towards its middle
    assert max(message.twist.linear.x for message in bench.commands) <= 0.04 + 1e-3
    assert controller.end() == 0
    assert read_json("controller.json")["filter_interventions"] > 0


def test_abstention_hands_over_to_the_teacher_and_back(start, bench, read_json):
    controller = start("controller_node", model_dir=str(BOX_BUNDLE))
    assert bench.until("STUDENT"), controller.output
    bench.goal = (-0.2, 0.3)  # far outside the data
    assert bench.until("TEACHER"), controller.output
    bench.goal = (0.15, 0.0)
    assert bench.until("STUDENT")
    assert controller.end() == 0
    result = read_json("controller.json")
    assert result["abstentions"] >= 1 and result["modes"]["TEACHER"] > 0 and result["teacher_plans"] > 0


@pytest.mark.parametrize("abstain", [True, False])
def test_a_teacher_too_late_to_take_over_is_said_at_the_start(start, bench, abstain):
    settings = {"model_dir": str(BOX_BUNDLE), "fallback.teacher_deadline": 0.001, "abstain.enabled": abstain}
    controller = start("controller_node", **settings)
    assert bench.until("STUDENT"), controller.output
    assert controller.end() == 0
    assert ("longer than fallback.teacher_deadline (1 ms)" in controller.output) == abstain


def test_stale_observations_hold_then_stop_and_reset_recovers(start, bench):
    controller = start("controller_node")
    assert bench.until("STUDENT"), controller.output
    bench.silent = {"object"}
    assert bench.until("HOLD")
    assert bench.until("STOP")
    bench.commands.clear()
    bench.run(0.3)
    assert bench.commands and all(speed(message) == 0.0 for message in bench.commands)
    bench.silent = set()
    bench.run(0.5)
    assert bench.mode == "STOP"  # only reset leaves it
    assert bench.call("/srdp_controller/reset").success
    assert bench.until("STUDENT")


def test_nan_in_a_message_is_refused_and_never_reaches_a_command(start, bench, read_json):
    controller = start("controller_node")
    assert bench.until("STUDENT"), controller.output
    bench.object = (math.nan, 0.0)
    assert bench.until("HOLD")
    bench.object = (-0.15, 0.03)
    assert bench.until("STUDENT")
    assert all(math.isfinite(speed(message)) for message in bench.commands)
    assert controller.end() == 0
    assert read_json("controller.json")["rejected_messages"] > 0
    assert "object_x is not finite" in controller.output


def test_a_missing_topic_is_named_and_nothing_moves(start, bench):
    controller = start("controller_node")
    bench.silent = {"object"}
    assert bench.until("HOLD")
    bench.run(3.0)
    assert bench.mode == "HOLD"
    assert bench.commands and all(speed(message) == 0.0 for message in bench.commands)
    assert controller.end() == 0
    assert re.search("no message yet on .*object_pose", controller.output)


def test_a_command_carries_the_stamp_of_its_observation(start, bench):
    start("controller_node")
    assert bench.until("STUDENT")
    bench.commands.clear()
    bench.run(0.3)
    now = bench.node.get_clock().now().nanoseconds
    ages = [now - (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec) for m in bench.commands]
    assert ages and all(0 < age < 1_000_000_000 for age in ages)
    assert bench.commands[-1].header.frame_id == "table"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"engine": "student_k3"}, "the bundle has: teacher, student_k1"),
        ({"provider": "cuda"}, "is not in this ONNX Runtime"),
        ({"provider": "tpu"}, "is not one of"),
        ({"model_dir": "/nowhere"}, "expected a bundle folder"),
        ({"update_rate": 50_000.0}, "update_rate"),
    ],
)
def test_a_start_that_cannot_be_is_one_clear_error_and_status_2(start, parameters, message):
    controller = start("controller_node", **parameters)
    assert controller.wait() == 2
    assert message in controller.output
    assert "Traceback" not in controller.output


def test_everything_that_does_not_fit_is_said_at_once(start):
    controller = start(
        "controller_node",
        thread_priority=30,
        **{"abstain.alpha": 0.002, "safety.keep_out": [0.0], "command.type": "spec"},
    )
    assert controller.wait() == 2
    for text in ("abstain.alpha 0.002 is below the smallest", "helper_priority: 40", "x, y, radius"):
        assert text in controller.output


def test_a_damaged_bundle_is_refused_at_the_start_and_at_a_swap(start, bench, bundle_copy):
    path = bundle_copy / "student_k2.onnx"
    data = bytearray(path.read_bytes())
    data[5000] ^= 4
    path.write_bytes(data)
    refused = start("controller_node", engine="student_k2", model_dir=str(bundle_copy))
    assert refused.wait() == 2
    assert "student_k2.onnx: damaged" in refused.output
    controller = start("controller_node", engine="student_k1", model_dir=str(bundle_copy))
    assert bench.until("STUDENT"), controller.output
    set_engine(bench.node, "student_k2", 10.0)
    bench.run(1.0)
    assert get_engine(bench.node, 10.0) == "student_k1"
    assert "swap refused" in controller.output and "damaged" in controller.output
    assert bench.mode == "STUDENT"


def test_a_bundle_of_another_observation_size_is_refused(start, bundle_copy):
    from srdp_controller.engines.bundle import load_bundle, write_bundle

    content = load_bundle(bundle_copy).content
    spec = content.spec.model_copy(update={"observation": content.spec.observation[:-1]})
    write_bundle(bundle_copy, content.model_copy(update={"spec": spec}))
    controller = start("controller_node", model_dir=str(bundle_copy))
    assert controller.wait() == 2
    assert "the bundle's spec says (1, 7)" in controller.output
    shutil.rmtree(bundle_copy)


def test_an_unknown_scenario_is_one_clear_error(start):
    robot = start("robot_node", scenario="windy")
    assert robot.wait() == 2
    assert "nominal" in robot.output and "Traceback" not in robot.output


def test_the_controller_is_a_lifecycle_node_that_waits_when_told_to(start, bench):
    controller = start("controller_node", autostart=False)
    client = bench.node.create_client(GetState, "/srdp_controller/get_state")
    end, states = time.monotonic() + 20.0, []
    while not states and time.monotonic() < end:  # the service of a controller that a test killed may still be known
        future = client.call_async(GetState.Request())
        bench.run(1.0)
        states += [future.result().current_state.label] if future.done() else []
    assert states == ["unconfigured"], controller.output
    assert not bench.commands


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux) to drop the privileges")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_without_privileges_it_warns_what_each_costs_and_runs(start, bench):
    controller = start("controller_node", prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    assert bench.until("STUDENT"), controller.output
    bench.run(0.3)
    assert re.search(r"WARN.*SCHED_FIFO: refused", controller.output)
    assert "may delay a cycle" in controller.output
    assert controller.end() == 0


def test_a_joint_that_is_missing_is_named(start, bench):
    controller = start("controller_node")
    bench.names = bench.names[:-1]
    assert bench.until("HOLD")
    bench.run(1.5)
    assert bench.mode == "HOLD"
    controller.end()
    assert "joint 'lbr_iiwa_joint_7' is not in the message" in controller.output


def test_a_teacher_that_outlasts_the_period_drives_by_planning_ahead(start, bench, read_json):
    settings = {"engine": "teacher", "update_rate": 1000.0, "abstain.enabled": False, "model_dir": str(BOX_BUNDLE)}
    refused = start("controller_node", **settings)
    assert refused.wait() == 2 and "planning.mode:=auto" in refused.output
    controller = start("controller_node", **settings, **{"planning.mode": "auto"})
    assert bench.until("STUDENT"), controller.output
    bench.run(2.0)
    assert controller.end() == 0, controller.output
    record = read_json("controller.json")
    assert "planning ahead" in controller.output
    assert record["commands"] > 1500 and record["limit_violations"] == 0
    assert record["modes"]["STUDENT"] > 1000


def test_commands_as_an_array_for_ros2_control(start, bench):
    from std_msgs.msg import Float64MultiArray

    arrays = []
    bench.node.create_subscription(
        Float64MultiArray, "/forward_velocity_controller/commands", lambda message: arrays.append(message), 100
    )
    controller = start(
        "controller_node",
        remaps={"/srdp_controller/command": "/forward_velocity_controller/commands"},
        **{"command.type": "float64_multi_array"},
    )
    assert bench.until("STUDENT"), controller.output
    bench.run(1.0)
    assert controller.end() == 0, controller.output
    assert arrays and all(len(message.data) == 2 for message in arrays)
    assert any(abs(value) > 1e-3 for message in arrays for value in message.data)
    assert [dimension.label for dimension in arrays[-1].layout.dim] == ["tip_velocity_x [m/s]", "tip_velocity_y [m/s]"]


def test_the_robot_takes_commands_as_an_array_too(start, read_json):
    array = {"command.type": "float64_multi_array"}
    robot = start("robot_node", duration=2.0, **array)
    controller = start("controller_node", **array)
    assert robot.wait(60) == 0, robot.output
    assert controller.end() == 0, controller.output
    result = read_json("simulation.json")
    assert result["commands"] > 100 and result["bad_commands"] == 0


def test_cycles_with_nothing_to_command_are_counted_and_forgotten_with_the_statistics():
    safety = SimpleNamespace(ready=False)
    cycle = SimpleNamespace(safety=safety, statistics=Statistics())
    loop = LoopThread(lambda now_ns: None, cycle, None, 0.0, {"update_rate": 100.0, "statistics.warm_up": 0.05})
    counted, seen = loop.counted_cycle(), []
    for number in range(10):
        safety.ready = number >= 7
        counted(number)
        seen.append(loop.cycles_before_ready)
    assert seen == [1, 2, 3, 4, 5, 1, 2, 2, 2, 2]


def test_a_pose_in_another_frame_and_angles_in_degrees_are_refused_by_name(start, bench):
    def said(text):
        end = time.monotonic() + 20.0
        while text not in controller.output and time.monotonic() < end:
            bench.run(0.2)
        return text in controller.output

    bench.frame = "camera"
    controller = start("controller_node")
    assert bench.until("HOLD", 20.0), controller.output
    assert said("its frame is 'camera'"), controller.output
    assert bench.mode == "HOLD" and bench.commands and not any(speed(command) for command in bench.commands)
    bench.frame, bench.positions = "", [math.degrees(angle) for angle in bench.positions]
    assert said("are these degrees?"), controller.output
    bench.run(0.5)
    assert bench.mode in ("HOLD", "STOP")


def test_every_sensor_fault_of_a_scenario_is_survived(start, read_json):
    robot = start("robot_node", scenario="faulty")
    controller = start("controller_node")
    reasons = {"outside its limits", "in the future", "6 positions for 7 joints", "ms old, at most 250 ms"}
    give_up = time.monotonic() + 90.0  # an episode may succeed before its later faults; the next one may not
    while not all(reason in controller.output for reason in reasons) and time.monotonic() < give_up:
        time.sleep(0.2)
    time.sleep(5.0)  # what comes after the last fault is driven too
    assert robot.end() == 0
    assert controller.end() == 0, controller.output
    record = read_json("controller.json")
    assert not {reason for reason in reasons if reason not in controller.output}
    assert record["commands"] == record["cycles"] and record["limit_violations"] == 0
    # how much of it is HOLD depends on how soon the last fault comes; between the faults it drives
    assert record["modes"]["HOLD"] > 0 and record["modes"]["STUDENT"] > 200
