import json
import subprocess
import sys

import pytest

from srdp_controller.cli import main


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("pipeline", "inspect", "verify", "eval", "demo", "swap"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere"], "nowhere"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k3"], "student_k8"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k1", "--scenario", "windy"], "nominal"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k1", "--episodes", "0"], "at least 1"),
        (["eval", "closed-loop", "MODEL", "--policy", "ddim_k0"], "100 steps"),
        (["eval", "fidelity", "MODEL", "--states", "imagined"], "choose one of: test"),
        (["eval", "closed-loop", "MODEL", "--policy", "dpm_k0"], "100 steps"),
        (["pipeline", "nowhere.yaml"], "no such recipe"),
        (["sweep", "nowhere.yaml"], "no such recipe"),
        (["sweep", "--seeds", "a"], "whole numbers"),
        (["summary", "nowhere"], "controller.json is missing"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_2(arguments, message, model_dir, capsys):
    assert main([str(model_dir) if word == "MODEL" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("srdp: ")]) == 1


def test_states_where_the_teacher_goes_either_way_are_found_by_asking_it(model_dir, tmp_path):
    path = tmp_path / "two_way.json"
    arguments = ["eval", "fidelity", str(model_dir), "--states", "two_way", "--count", "24", "--samples", "32"]
    assert main([*arguments, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert 4 <= result["count"] <= 24
    assert all(entry["two_mode_states"] > 0 for entry in result["policies"].values())


def test_bad_usage_is_status_2():
    with pytest.raises(SystemExit) as ended:
        main(["eval", "closed-loop"])
    assert ended.value.code == 2


def test_a_closed_loop_evaluation_writes_the_contracts_keys(model_dir, tmp_path):
    path = tmp_path / "result.json"
    arguments = ["eval", "closed-loop", str(model_dir), "--policy", "student_k1", "--episodes", "4"]
    assert main([*arguments, "--update-rate", "20", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert {"command", "commit", "machine", "versions", "seed", "created"} <= set(result)
    assert {"policy", "scenario", "episodes", "successes", "success_rate", "success_interval"} <= set(result)
    assert {"update_rate_hz", "mean_episode_s", "post_contacts", "ways"} <= set(result)
    assert {"left", "right"} <= set(result["ways"])
    assert result["successes"] >= 3


def test_a_fidelity_evaluation_writes_the_contracts_keys(model_dir, tmp_path):
    path = tmp_path / "fidelity.json"
    assert main(["eval", "fidelity", str(model_dir), "--count", "12", "--samples", "32", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    wanted = {"sliced_wasserstein", "sliced_wasserstein_interval", "ratio_to_ddim", "ratio_to_floor", "mmd"}
    wanted |= {"tv_lower", "mode_coverage", "matched_noise_rmse"}
    for entry in [*result["policies"].values(), *result["baselines"].values()]:
        assert wanted <= set(entry)
    assert result["policies"]["student_k1"]["ratio_to_floor"] < 2.0 < result["baselines"]["ddim_k1"]["ratio_to_floor"]


def test_inspect_and_verify_accept_the_shipped_bundle(model_dir, tmp_path, capsys):
    assert main(["inspect", str(model_dir)]) == 0
    assert main(["verify", str(model_dir), "--json", str(tmp_path / "v.json")]) == 0
    assert json.loads((tmp_path / "v.json").read_text())["hashes_ok"] is True
    assert "student_k8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    ["srdp_controller.ros.controller_node", "srdp_controller.ros.robot_node", "srdp_controller.control.controller"],
)
def test_the_run_time_side_never_loads_torch(module):
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'minari')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_control_never_loads_ros():
    code = "import sys, srdp_controller.control.controller; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
