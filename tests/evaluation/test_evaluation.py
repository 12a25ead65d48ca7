"""The evaluation's commands: closed loop, baselines, fidelity, tables."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs the simulation: make setup")
pytest.importorskip("onnx", reason="baselines are made of the teacher's graph")

from srdp_controller.benchmarks import deployment
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation import baselines, closed_loop, states, table
from srdp_controller.evaluation.fidelity import fidelity
from srdp_controller.evaluation.latency import measure_inference
from srdp_controller.evaluation.policies import Policy, without_latent
from srdp_controller.tasks.pushing.task import PushingTask

TASK = PushingTask()


def silent(*now):
    """No progress."""


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A scenario that ends after two seconds."""
    path = tmp_path_factory.mktemp("scenario") / "short.yaml"
    path.write_text("name: short\ntime_limit_s: 2.0\n")
    return str(path)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder, and a search for starting levels that is over soon."""
    monkeypatch.setattr(baselines, "CALIBRATION_EPISODES", 2)
    monkeypatch.setattr(baselines, "CALIBRATION_STATES", 8)
    monkeypatch.setattr(baselines, "EARLIEST", 0.88)
    return tmp_path / "eval"


@pytest.fixture(scope="module")
def trained(bundle, tmp_path_factory):
    """A folder with one policy that was (not) trained directly, its network and its sampler."""
    torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
    from srdp_controller.offline.baselines.regression import MixtureNetwork, draw
    from srdp_controller.offline.export.graphs import export_sampler
    from srdp_controller.offline.recipe import NetworkRecipe

    spec, folder = bundle.spec, tmp_path_factory.mktemp("baselines")
    torch.manual_seed(0)
    network = MixtureNetwork(spec.obs_dim, spec.horizon * spec.act_dim, NetworkRecipe(trunk=(16,), head=(16, 16)))
    network = network.eval().requires_grad_(False)
    (folder / "gmm.onnx").write_bytes(export_sampler(network, draw, 2, spec))
    return folder, lambda observation, noise: draw(network, torch.from_numpy(observation), torch.from_numpy(noise))


def drive(model_dir, policy="student_k1", scenario="nominal", episodes=1, **options):
    return closed_loop.closed_loop(model_dir, policy=policy, scenario=scenario, episodes=episodes, **options)


def test_the_closed_loop_has_the_contracts_keys_whatever_the_number_of_processes(model_dir, short, monkeypatch, capsys):
    monkeypatch.setattr(closed_loop, "BLOCK", 2)
    one, two = (drive(model_dir, scenario=short, episodes=4, processes=n) for n in (1, 2))
    assert one == two
    wanted = "task policy scenario episodes successes success_rate success_interval update_rate_hz latency_ms "
    wanted += "mean_episode_s metrics abstentions interventions modes"
    assert set(wanted.split()) <= set(one)
    assert one["task"] == "pushing" and one["episodes"] == 4 and one["latency_ms"] == 0.0
    assert one["metrics"]["post_contacts"] >= 0 and one["mean_episode_s"] <= 2.0
    assert sum(one["modes"].values()) == one["cycles"]
    low, high = one["success_interval"]
    assert low <= one["success_rate"] <= high
    assert f"{one['successes']} of 4" in capsys.readouterr().out


def test_closed_loop_refuses_what_makes_no_sense(model_dir):
    with pytest.raises(SrdpError, match="--episodes 0"):
        drive(model_dir, episodes=0)
    with pytest.raises(SrdpError, match="student_k3"):
        drive(model_dir, policy="student_k3", processes=1)
    with pytest.raises(SrdpError, match="no task 'juggling'"):
        drive(model_dir, task="juggling")


def test_measured_latencies_come_from_this_machine(bundle, model_dir):
    measured = measure_inference(bundle, ["student_k1", "ddim_k2@95"], rounds=2)
    assert all(len(times) >= 50 and 1e-6 < times[0] <= times[-1] < 0.1 for times in measured.values())
    result = drive(model_dir, latency="measured", processes=1)
    assert 0.0 < result["latency_ms"] <= result["latency_p99_ms"] < 100.0


def test_a_sampler_starts_where_it_comes_nearest_to_the_teacher(bundle, results):
    told = []
    full = baselines.with_level(bundle, TASK, "ddim_k1", results, lambda *now: told.append(now))
    level = int(full.removeprefix("ddim_k1@"))
    assert 88 <= level <= 93  # at 100 nothing is left of the signal
    content = json.loads((results / "pushing" / "starting_levels.json").read_text())
    assert content["levels"] == {"ddim_k1": level} and content["commit"] and content["teacher"]
    distances = content["sliced_wasserstein"]["ddim_k1"]
    assert distances[str(level)] < 0.2 * distances["100"]
    told.clear()
    assert baselines.with_level(bundle, TASK, "ddim_k1", results, lambda *now: told.append(now)) == full
    assert not told  # remembered
    assert baselines.with_level(bundle, TASK, "student_k1", results, silent) == "student_k1"


def test_both_samplers_end_at_the_teachers_own_answer_with_as_many_steps(bundle):
    rng = np.random.default_rng(0)
    observation = states.visited_states(TASK, bundle.spec, "nominal", 1, 5)[:6]
    teacher = baselines.load_policy(bundle, "teacher")
    noise = rng.standard_normal((len(observation), *teacher.noise_shape)).astype(np.float32)
    expected = teacher.actions(observation, noise)
    ddim = baselines.load_policy(bundle, "ddim_k100").actions(observation, noise)
    np.testing.assert_allclose(ddim, expected, atol=1e-5)
    pytest.importorskip("diffusers")
    dpm = baselines.load_policy(bundle, "dpm_k20@97").actions(observation, noise)
    assert np.abs(dpm - expected).mean() < 0.01


@pytest.mark.parametrize("name", ["ddim_k0", "ddim_k101", "ddim_k8@4", "dpm_k2@101", "ddim_kx"])
def test_samplers_that_cannot_be_are_refused(bundle, name):
    with pytest.raises(SrdpError, match=name):
        baselines.load_policy(bundle, name)


def test_fidelity_compares_students_and_baselines_with_the_teacher(model_dir, results, trained, monkeypatch):
    monkeypatch.setattr(baselines, "EARLIEST", 0.98)
    pytest.importorskip("diffusers")
    result = fidelity(model_dir, states="test", count=8, samples=16, results=results, baselines=trained[0])
    assert set(result["policies"]) == {"student_k1", "student_k2", "student_k4", "student_k8"}
    assert {"ddim_k1", "ddim_k8", "dpm_k4", "gmm"} <= set(result["baselines"])
    assert result["baselines"]["gmm"]["matched_noise_rmse"] is None  # its noise means something else
    wanted = "sliced_wasserstein sliced_wasserstein_interval ratio_to_floor mmd tv_lower mode_coverage "
    wanted += "mode_coverage_of_teacher matched_noise_rmse"
    for entry in (*result["policies"].values(), *result["baselines"].values()):
        assert set(wanted.split()) <= set(entry)
        low, high = entry["sliced_wasserstein_interval"]
        assert low <= entry["sliced_wasserstein"] <= high
    assert result["baselines"]["ddim_k1"]["starting_level"] == 98
    assert result["policies"]["student_k4"]["ratio_to_floor"] < 2.0


def test_a_policy_that_was_trained_directly_is_found_by_its_name(bundle, trained):
    folder, network = trained
    spec, rng = bundle.spec, np.random.default_rng(0)
    policy = baselines.load_policy(bundle, "gmm", folder)
    assert policy.noise_shape == (2, spec.horizon, spec.act_dim)
    observation = rng.standard_normal((32, spec.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((32, *policy.noise_shape)).astype(np.float32)
    (centre, scale), (action_centre, action_scale) = spec.observation_normalisation(), spec.action_normalisation()
    wanted = network((observation - centre) / scale, noise.reshape(32, 2, -1)).clamp(-4.0, 4.0)
    found = (policy.actions(observation, noise) - action_centre) / action_scale
    np.testing.assert_allclose(found.reshape(32, -1), wanted, atol=1e-4)
    assert np.abs(found).max() > 0.1
    assert len(measure_inference(bundle, ["gmm"], rounds=1, baselines=folder)["gmm"]) >= 29


def test_a_policy_that_was_not_trained_yet_says_what_trains_it(bundle, model_dir, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remedy = "srdp experiment direct-policies RECIPE --policies flow_k2"
    with pytest.raises(SrdpError, match=rf"^runs/pushing/baselines/flow_k2.onnx: not there; `{remedy}`"):
        drive(model_dir, policy="flow_k2", processes=1)
    with pytest.raises(SrdpError, match=rf"{trained[0]}/flow_k2.onnx: not there"):
        baselines.load_policy(bundle, "flow_k2", trained[0])
    with pytest.raises(SrdpError, match="no policy trained directly; `srdp experiment direct-policies RECIPE`"):
        fidelity(model_dir, count=4, samples=8, baselines=tmp_path)


def test_a_policy_that_was_trained_for_another_robot_is_refused(bundle, trained):
    content = bundle.content.model_copy(update={"spec": bundle.spec.extended(1, 0, 0)})
    other = LoadedBundle(bundle.folder, content, bundle.raw)
    with pytest.raises(SrdpError, match="the bundle's spec has 16"):
        baselines.load_policy(other, "gmm", trained[0])


def test_the_table_drives_a_policy_that_was_trained_directly(model_dir, short, trained, tmp_path):
    rows = table.table(
        model_dir,
        policies=("gmm",),
        scenarios=(short,),
        episodes=2,
        processes=2,
        results=tmp_path,
        baselines=trained[0],
    )["rows"]
    assert [(row["policy"], row["episodes"], row["abstentions"]) for row in rows] == [("gmm", 2, 0)]


def test_bimodal_states_are_those_where_the_teacher_has_two_modes(bundle):
    def two_ways_behind_the_post(observation, noise):
        side = np.where(observation[:, :1] < 0.0, np.sign(noise[:, 0, 0, :1]), 0.0)
        return 0.1 * side[:, None] + 0.01 * noise[:, 0]

    teacher = Policy("teacher", (1, 8, 2), without_latent(two_ways_behind_the_post))
    drawn = states.draw_states(TASK, bundle.spec, "bimodal", 60, 0)
    kept = states.bimodal_states(teacher, drawn, 0, silent)
    assert len(kept) > 0.9 * (drawn[:, 0] < 0.0).sum() and (kept[:, 0] < 0.0).all()
    with pytest.raises(SrdpError, match="of 60 states have two modes"):
        states.bimodal_states(teacher, np.abs(drawn), 0, silent)
    with pytest.raises(SrdpError, match="choose one of"):
        states.draw_states(TASK, bundle.spec, "odd", 4, 0)


def test_states_in_which_the_expert_is_stuck_are_left_out(bundle, monkeypatch):
    whole = states.visited_states(PushingTask(), bundle.spec, "nominal", 1, 3)
    able, made = PushingTask.expert, []

    class Idle:
        def reset(self):
            """It remembers nothing."""

        def act(self, truth):
            return np.zeros(bundle.spec.act_dim)

    def second_is_idle(self, rng):
        made.append(rng)  # the first only shows that there is an expert
        return Idle() if len(made) == 3 else able(self, rng)

    monkeypatch.setattr(PushingTask, "expert", second_is_idle)
    np.testing.assert_array_equal(states.visited_states(PushingTask(), bundle.spec, "nominal", 2, 3), whole)
    assert len(made) == 3


def test_states_of_a_task_without_an_expert_are_visited_by_the_teacher(bundle, monkeypatch):
    monkeypatch.setattr(PushingTask, "expert", lambda self, rng: None)
    teacher = baselines.load_policy(bundle, "student_k1")
    visited = states.visited_states(PushingTask(), bundle.spec, "nominal", 1, 0, teacher)
    assert len(visited) > 40 and visited.shape[1] == bundle.spec.obs_dim
    with pytest.raises(SrdpError, match="has no expert"):
        states.visited_states(PushingTask(), bundle.spec, "nominal", 1, 0)


def test_a_table_goes_on_where_it_was_interrupted(model_dir, results, monkeypatch):
    calls = []

    def drive(bundle, *, policy, scenario, **rest):
        calls.append((policy, scenario))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"policy": policy, "scenario": scenario}

    monkeypatch.setattr(table, "closed_loop", drive)
    arguments = {"policies": ("teacher", "ddim_k1"), "scenarios": ("nominal", "shifted"), "results": results}
    with pytest.raises(KeyboardInterrupt):
        table.table(model_dir, **arguments)
    result = table.table(model_dir, **arguments)
    assert calls[2:] == [("teacher", "shifted"), ("teacher", "shifted"), ("ddim_k1", "shifted")]
    assert len(result["rows"]) == 4
    assert json.loads((results / "pushing" / "closed_loop.json").read_text())["rows"] == result["rows"]
    table.table(model_dir, **arguments, seed=1)  # another seed: everything anew
    assert len(calls) == 9


def test_every_scenario_of_the_task_but_the_faulty_ones_is_in_the_table():
    names = table.scenarios_of(TASK)
    assert names[0] == "nominal" and {"shifted", "noisy", "delayed"} <= set(names) and "faulty" not in names


def test_engines_fit_by_the_period_and_by_the_latency_budget(make_budget):
    fast, slow = deployment.fitting({"student_k1": [1e-3], "teacher": [0.2]}, make_budget(0.06))
    assert fast["highest_rate_hz"] == pytest.approx(800.0) and slow["highest_rate_hz"] == pytest.approx(4.0)
    assert (fast["within_budget"], slow["within_budget"]) == (True, False)
    assert deployment.fitting({"teacher": [0.2]}, None)[0]["within_budget"] is None


def test_the_deployment_benchmark_drives_every_setting(model_dir, short, tmp_path):
    pytest.importorskip("matplotlib")
    result = deployment.deployment(
        Path(model_dir), scenario=short, rates=(20.0, 50.0), slower=(1.0,), episodes=1, processes=1
    )
    labels = {row["label"] for row in result["table"]}
    assert {"teacher, in the loop", "teacher, real-time chunking", "student_k1, in the loop"} <= labels
    assert len(result["table"]) == 6 * 2 + 2 + 5 * 2
    assert all(row["age_ms"]["p50"] > 10 and row["command_jerk"] > 0.0 for row in result["table"])


def test_jerk_is_the_same_at_every_rate_of_a_smooth_command():
    seconds = np.arange(0, 4, 1 / 240)
    smooth = np.stack([np.sin(2 * np.pi * 0.5 * seconds), 0 * seconds], axis=1)
    held = smooth[(np.arange(len(seconds)) // 12) * 12]  # a command sent at 20 Hz
    expected = (2 * np.pi * 0.5) ** 2 / np.sqrt(2)
    assert deployment.command_jerk(smooth, 1 / 240) == pytest.approx(expected, rel=0.05)
    assert deployment.command_jerk(held, 1 / 240) == pytest.approx(expected, rel=0.05)
