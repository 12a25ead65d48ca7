"""What users' scripts rely on, as it was before the house was rebuilt (commit 2e4b20f): nothing of it may go away."""

import json
from pathlib import Path

import pytest
import yaml

from srdp_controller.control.supervisor import TRANSITIONS
from srdp_controller.engines.bundle import load_bundle

ROOT = Path(__file__).resolve().parent.parent
BEFORE = json.loads((Path(__file__).parent / "contracts.json").read_text())
GONE = {"rehearsal_time"}  # measured to cost more than it saves
CHANGED = {"command.type"}  # the spec names each group's output now; the old values are still taken
RESULTS = {
    "bench loop": "bench/loop_1000.json",
    "bench swap": "bench/swap.json",
    "bench faults": "bench/faults.json",
    "bench latency": "bench/latency.json",
    "bench soak": "bench/soak.json",
    "bench deployment": "bench/deployment.json",
    "demo": "demo/demo.json",
}


@pytest.mark.parametrize(("node", "key"), [("controller", "parameters"), ("simulation", "simulation_parameters")])
def test_parameters_keep_their_names_types_defaults_and_ranges(node, key):
    schema = yaml.safe_load((ROOT / f"config/{node}_parameters.yaml").read_text())
    for name, facts in BEFORE[key].items():
        if name in GONE:
            assert name not in schema
            continue
        for fact, value in facts.items():
            if name in CHANGED and fact != "type":
                continue
            found = schema[name].get(fact)
            if fact == "one_of" and value is not None:  # a choice may be added
                found = [choice for choice in found if choice in value]
            assert found == value, f"{name}: {fact}"


def test_every_mode_answers_every_event_as_before():
    now = {
        mode.value: {event.value: target.value for event, target in row.items()} for mode, row in TRANSITIONS.items()
    }
    for mode, row in BEFORE["transitions"].items():
        for event, target in row.items():
            assert now[mode][event] == target, f"{mode} on {event}"


@pytest.mark.parametrize("command", RESULTS)
def test_result_files_have_the_keys_that_they_had(command):
    content = json.loads((ROOT / "results" / RESULTS[command]).read_text())
    assert set(BEFORE["json_keys"][command]) <= set(content)


def test_todays_bundle_of_schema_1_loads_with_its_identity_checked(model_dir):
    manifest = json.loads((model_dir / "bundle.json").read_text())
    assert manifest["schema_version"] == 1
    spec = load_bundle(model_dir).spec
    assert [component.name for component in spec.observation] == [c["name"] for c in manifest["spec"]["observation"]]
    assert [component.name for component in spec.action] == [c["name"] for c in manifest["spec"]["action"]]
    for component, before in zip(spec.action, manifest["spec"]["action"], strict=True):
        assert {k: getattr(component, k) for k in ("unit", "lower", "upper", "centre", "scale")} == {
            k: before[k] for k in ("unit", "lower", "upper", "centre", "scale")
        }
