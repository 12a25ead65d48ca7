import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="the command line needs tyro: pip install 'srdp_controller[cli]'")

from srdp_controller.cli import COMMANDS, main

EXTRAS = Path(__file__).resolve().parent.parent / "setup.cfg"


def test_help_lists_every_command_by_group_and_imports_none_of_them():
    code = (
        "import sys\nfrom srdp_controller.cli import main\nstatus = main(['--help'])\n"
        "assert not {'numpy', 'pydantic', 'torch', 'rclpy', 'tyro'} & set(sys.modules)\nsys.exit(status)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert all(f"  {words} " in answer.stdout for words in COMMANDS)
    assert all(f"{group}:" in answer.stdout for group in ("offline", "bundle", "evaluate", "measure", "run"))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_a_function_that_explains_itself(words, capsys):
    command = COMMANDS[words]
    module, _, function = command.target.partition(":")
    try:
        assert getattr(importlib.import_module(f"srdp_controller.{module}"), function).__doc__
    except ModuleNotFoundError as error:
        if error.name.startswith("srdp_controller"):
            raise
        pytest.skip(f"needs {error.name}")
    assert main([*words.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: srdp {words}" in text and "--json PATH" in text


def test_the_extras_that_commands_name_exist_and_bring_the_command_line():
    sections = re.findall(r"^(\w+) =\n((?:    .+\n)+)", EXTRAS.read_text(), re.MULTILINE)
    extras = dict(sections)
    for words, command in COMMANDS.items():
        named = command.extra.split(",")
        assert set(named) <= set(extras), words
        assert any("tyro" in extras[name] for name in named), words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "lop"], "bench loop"),
        (["pipelin"], "pipeline"),
        (["eval"], "eval closed-loop, eval table, eval budget, eval fidelity"),
        (["inspect", "models", "--json"], "path of a file"),
        (["inspect", "nowhere"], "nowhere"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k3"], "student_k8"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k1", "--scenario", "windy"], "nominal"),
        (["eval", "closed-loop", "MODEL", "--policy", "student_k1", "--episodes", "0"], "at least 1"),
        (["eval", "closed-loop", "MODEL", "--policy", "ddim_k0"], "100"),
        (["pipeline", "nowhere.yaml"], "no such recipe"),
        (["bench", "loop", "MODEL", "--loops", "bear"], "bare, dedicated"),
        (["bench", "faults", "MODEL", "--only", "earthquake"], "SIGKILL"),
        (["bench", "soak", "MODEL", "--duration", "2"], "expected more than the warm-up"),
        (["bench", "swap", "MODEL", "--swaps", "0"], "at least 1"),
        (["swap"], "swap what?"),
        (["demo", "--task", "gymnasium:Pendulum-v1"], "name its bundle with --model"),
        (["summary", "nowhere"], "controller.json is missing"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_2(arguments, message, model_dir, capsys):
    assert main([str(model_dir) if word == "MODEL" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("srdp: ")]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "closed-loop"], "policy"),
        (["bench", "loop", "--rat", "5"], "--rate"),
        (["bench", "loop", "--rate", "fast"], "fast"),
        (["eval", "fidelity", "models/pushing", "--states", "imagined"], "bimodal"),
    ],
)
def test_bad_usage_is_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "srdp_controller.offline.pipeline", raising=False)
    assert main(["pipeline", "export/pushing.yaml"]) == 2
    error = capsys.readouterr().err
    assert "this command needs torch" in error and "srdp_controller[train]" in error


def test_an_interrupted_command_is_status_1(monkeypatch, capsys):
    import srdp_controller.report.tables as module

    def interrupted():
        """Ctrl-C."""
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "print_parameters", interrupted)
    assert main(["parameters"]) == 1
    assert "interrupted" in capsys.readouterr().err


def test_json_is_written_wherever_the_option_stands(tmp_path, capsys):
    for words in (["--json", "a.json", "parameters"], ["parameters", "--json=a.json"]):
        path = tmp_path / "a.json"
        assert main([word.replace("a.json", str(path)) for word in words]) == 0
        result = json.loads(path.read_text())
        assert {"command", "commit", "machine", "versions", "seed", "created", "parameters"} <= set(result)
        path.unlink()


def test_a_closed_loop_evaluation_writes_the_contracts_keys(model_dir, tmp_path):
    path = tmp_path / "result.json"
    arguments = ["eval", "closed-loop", str(model_dir), "--policy", "student_k1", "--episodes", "4"]
    assert main([*arguments, "--scenario", "box", "--update-rate", "20", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert {"command", "commit", "machine", "versions", "seed", "created"} <= set(result)
    assert {"task", "policy", "scenario", "episodes", "successes", "success_rate", "success_interval"} <= set(result)
    assert {"update_rate_hz", "latency_ms", "mean_episode_s", "abstentions", "interventions", "modes"} <= set(result)
    assert {"ways", "post_contacts"} <= set(result["metrics"])
    assert result["successes"] >= 3


def test_inspect_and_verify_accept_the_shipped_bundle(shipped_dir, tmp_path, capsys):
    assert main(["inspect", str(shipped_dir)]) == 0
    assert main(["verify", str(shipped_dir), "--json", str(tmp_path / "v.json")]) == 0
    assert json.loads((tmp_path / "v.json").read_text())["hashes_ok"] is True
    assert "student_k8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    ["srdp_controller.ros.controller_node", "srdp_controller.ros.robot_node", "srdp_controller.control.cycle"],
)
def test_the_run_time_side_never_loads_torch_or_the_command_line(module):
    if ".ros." in module:
        pytest.importorskip("rclpy")
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'minari', 'tyro')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_control_never_loads_ros():
    code = "import sys, srdp_controller.control.cycle; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_command_that_is_told_to_end_leaves_no_worker_behind(model_dir):
    command = ["eval", "closed-loop", str(model_dir), "--policy", "student_k1", "--episodes", "1000"]
    started = subprocess.Popen(
        [sys.executable, "-m", "srdp_controller.cli", *command],
        cwd=EXTRAS.parent,
        start_new_session=True,
        stdout=subprocess.PIPE,
    )

    def processes():
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words, numbers = (process / "cmdline").read_text(), (process / "stat").read_text().rpartition(")")[2]
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
            if int(numbers.split()[3]) == started.pid and "LokyProcess" in words:  # of the same session
                found.append(process)
        return found

    def wait(condition):
        until = time.monotonic() + 60.0
        while not condition() and time.monotonic() < until:
            time.sleep(0.1)
        return condition()

    assert wait(lambda: len(processes()) == 2)
    started.terminate()
    assert started.wait(30) == 1
    assert wait(lambda: not processes())
