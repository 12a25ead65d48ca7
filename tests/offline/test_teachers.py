"""``--teacher``: teachers from elsewhere, by name; a LeRobot checkpoint to the number."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
pytest.importorskip("diffusers", reason="the offline side needs diffusers: make setup-train")
from safetensors.numpy import save_file  # noqa: E402

from srdp_controller import cli  # noqa: E402
from srdp_controller.engines.bundle import load_bundle  # noqa: E402
from srdp_controller.engines.onnx_engine import BatchedPolicy  # noqa: E402
from srdp_controller.errors import SrdpError  # noqa: E402
from srdp_controller.offline.distill import build_student  # noqa: E402
from srdp_controller.offline.export.assemble import assemble_bundle  # noqa: E402
from srdp_controller.offline.init.from_arrays import draft_from_arrays  # noqa: E402
from srdp_controller.offline.lerobot_policy import _normalisations, _scales, read_lerobot  # noqa: E402
from srdp_controller.offline.recipe import DistillRecipe, ObservationRecipe, Recipe  # noqa: E402
from srdp_controller.offline.teachers import find_teacher  # noqa: E402
from srdp_controller.policy.adapters import AdaptedTeacher  # noqa: E402
from srdp_controller.spec import PolicySpec  # noqa: E402
from srdp_controller.tasks.pushing.spec import pushing_spec  # noqa: E402

DOC = Path(__file__).parents[2] / "docs" / "own_teacher.md"
RECIPE = Recipe.model_validate({"task": "pushing"})
STATE, ENVIRONMENT, ACTIONS = 3, 5, 2
RNG = np.random.default_rng(0)
SMALL = DistillRecipe.model_validate({"network": {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8}})
CALIBRATION = b'{"score": "none", "trajectories": 0, "policies": {}}'


def small_spec(horizon=8):
    """What a policy of 3 + 5 numbers and 2 actions sees, as `srdp init` drafts it."""
    names = [f"state_{i}" for i in range(STATE + ENVIRONMENT)]
    draft = draft_from_arrays(
        "small",
        "nowhere",
        RNG.standard_normal((50, len(names))),
        RNG.standard_normal((50, ACTIONS)),
        names,
        ["action_0", "action_1"],
        10.0,
        "as the test says",
    )
    return PolicySpec.model_validate({**yaml.safe_load(draft.spec_text()), "horizon": horizon})


# --- functions -----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with what docs/own_teacher.md shows as my_teacher.py, and nothing imported from it."""
    (tmp_path / "my_teacher.py").write_text(
        re.search(r"```python\n# my_teacher.py\n(.*?)```", DOC.read_text(), re.S)[1]
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_teacher", "other"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("function", ["with_diffusers", "by_hand"])
def test_the_documented_teachers_go_through_the_pipeline(function, place, capsys):
    place.joinpath("recipe.yaml").write_text(
        "task: pushing\ndistill: {network: {trunk: [16], latent: 8, head: [16, 16]}}\n"
    )
    sys.path.insert(0, str(place))
    import my_teacher

    network = my_teacher.Denoiser(pushing_spec())
    torch.save(network.state_dict(), "denoiser.pt")
    name = f"{place}/my_teacher.py:{function}"
    # its bundle is another test's: what is asked here is that every stage before it takes the teacher
    words = ["pipeline", "recipe.yaml", "--teacher", name, "--quick", "--run-folder", "run", "--last", "distill"]
    assert cli.main([*words, "--set", "distill.chain_steps=2"]) == 0, capsys.readouterr().err
    assert (place / "run" / "quick" / "student_k1.pt").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "--teacher nothing: no such folder; expected a bundle, the folder of"),
        (".", "has neither bundle.json nor config.json"),
        ("other.py:teacher", "no file other.py"),
        ("my_teacher:teachers", "has no attribute 'teachers'"),
        ("my_teacher.py:wrong", "returned int, expected a DiffusionTeacher"),
        ("my_teacher.py:flow", "has no alphas_cumprod"),
    ],
)
def test_what_is_no_teacher_is_said_in_one_line(name, message, place):
    with (place / "my_teacher.py").open("a") as file:
        file.write(
            "def wrong(spec): return 3\n"
            "def flow(spec):\n    from diffusers import FlowMatchEulerDiscreteScheduler as Flow\n"
            "    return from_diffusers(Denoiser(spec), Flow(), obs_dim=8, horizon=16, act_dim=2)\n"
        )
    with pytest.raises(SrdpError, match=re.escape(message)) as raised:
        find_teacher(name, RECIPE)
    assert "\n" not in str(raised.value)


def test_a_file_is_not_taken_for_another_module_of_its_name(place):
    (place / "json.py").write_text("def teacher(spec): return None\n")
    with pytest.raises(SrdpError, match="is called json too; rename the file"):
        find_teacher("json.py:teacher", RECIPE)


def test_check_says_that_a_teacher_is_of_other_sizes(place, capsys):
    with (place / "my_teacher.py").open("a") as file:
        file.write(
            "def larger(spec):\n"
            "    return AdaptedTeacher(Denoiser(spec), np.linspace(0.9, 0.1, 20), obs_dim=9, horizon=4, act_dim=2)\n"
        )
    (place / "recipe.yaml").write_text("task: pushing\n")
    assert cli.main(["check", "recipe.yaml", "--teacher", "my_teacher.py:larger"]) == 2
    said = capsys.readouterr().err
    assert "the teacher's observations have 9 values, the spec's 8" in said
    assert "the teacher's chunks have 8 values, the spec's 32" in said


class Recurrent(torch.nn.Module):
    """A denoiser each of whose answers depends on the whole chunk."""

    def __init__(self, observations, numbers):
        super().__init__()
        self.layers = torch.nn.Linear(observations + numbers, numbers)

    def forward(self, noisy, timestep, state):
        return torch.tanh(self.layers(torch.cat([noisy.flatten(1), state], dim=1))).reshape(noisy.shape)


def test_a_bundle_gives_only_the_steps_from_now_on_of_a_longer_chunk(tmp_path):
    torch.manual_seed(0)
    spec = small_spec(horizon=4)
    teacher = AdaptedTeacher(
        Recurrent(8, 14),
        np.linspace(0.9, 0.1, 10),
        obs_dim=8,
        horizon=7,
        act_dim=2,
        first=2,
        actions=4,
        clip=1.0,
        keeps_noise=True,
    ).eval()
    students = {  # of two makes of graph
        "student_k2": build_student(teacher, 2, SMALL).eval(),
        "student_k2_resampled": build_student(teacher, 2, SMALL.model_copy(update={"method": "consistency"})).eval(),
    }
    centre, scale = spec.observation_normalisation()
    states = (centre + scale * RNG.standard_normal((3, 8))).astype(np.float32)
    bundle, _ = assemble_bundle(
        tmp_path / "bundle", "small", spec, teacher, students, CALIBRATION, {}, states, lambda *_: None
    )
    assert bundle.policy("student_k2_resampled").noise_shape == (2, 7, 2)
    action_centre, action_scale = spec.action_normalisation()
    observed = torch.from_numpy((states - centre) / scale)
    noise = RNG.standard_normal((3, 1, 7, 2)).astype(np.float32)
    for name, chunks in (
        ("teacher", teacher.sample(observed, torch.from_numpy(noise).flatten(1))[0]),
        ("student_k2", students["student_k2"](observed, torch.from_numpy(noise).flatten(1))[0]),
    ):
        expected = action_centre + action_scale * chunks.detach().numpy().reshape(3, 7, 2)[:, 2:6]
        assert BatchedPolicy(bundle, name)(states, noise) == pytest.approx(expected, abs=1e-4)


# --- LeRobot -------------------------------------------------------------------------------------


def checkpoint(folder, **changes):
    """A config.json of a LeRobot diffusion policy, without weights."""
    features = {"observation.state": {"type": "STATE", "shape": [STATE]}}
    features["observation.environment_state"] = {"type": "ENV", "shape": [ENVIRONMENT]}
    config = {
        "type": "diffusion",
        "n_obs_steps": 2,
        "horizon": 16,
        "n_action_steps": 8,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [ACTIONS]}},
        "normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "MIN_MAX"},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "observing", "message"),
    [
        ({"type": "act"}, {}, "config.json says type 'act'; expected a LeRobot 'diffusion' policy"),
        ({"input_features": {"observation.images.top": {"shape": [3, 96, 96]}}}, {}, "observes observation.images.top"),
        ({"input_features": {"observation.state": {"shape": [4]}}}, {}, "observes 4 numbers, the spec 8"),
        ({"output_features": {"action": {"shape": [3]}}}, {}, "commands 3 numbers, the spec 2"),
        ({"horizon": 8}, {}, "of its 8 actions 7 are from now on; set the spec's horizon, now 8, to 7 or less"),
        ({"n_obs_steps": 3}, {"observation_history": 1}, "set the recipe's observation.observation_history to 2"),
        ({}, {"command_history": 1}, "command_history and action_prefix to 0"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_loaded(changes, observing, message, tmp_path):
    folder = checkpoint(tmp_path / "policy", **changes)
    with pytest.raises(SrdpError, match=re.escape(message)):
        read_lerobot(folder, small_spec(), ObservationRecipe(**observing))


def test_without_lerobot_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.setitem(sys.modules, "lerobot.configs.policies", None)
    with pytest.raises(SrdpError, match=r"pip install 'srdp_controller\[lerobot-policy\]'"):
        read_lerobot(checkpoint(tmp_path / "policy"), small_spec(), ObservationRecipe())


STATISTICS = {
    "observation.state.mean": np.array([1, 2, 3], np.float32),
    "observation.state.std": np.array([0.5, 0.25, 0], np.float32),
    "action.min": np.array([-1, 0], np.float32),
    "action.max": np.array([3, 1], np.float32),
}


def of_0_3(folder):
    weights = {}
    for name, value in STATISTICS.items():
        feature, _, key = name.rpartition(".")
        where = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
        weights[f"{where}.buffer_{feature.replace('.', '_')}.{key}"] = value
    save_file(weights, folder / "model.safetensors")


def of_0_4(folder):
    for name, step in (
        ("policy_preprocessor", "normalizer_processor"),
        ("policy_postprocessor", "unnormalizer_processor"),
    ):
        save_file(STATISTICS, folder / f"{name}.safetensors")
        config = {"norm_map": {"STATE": "MEAN_STD", "ACTION": "MIN_MAX"}}
        steps = [
            {"registry_name": "device_processor", "config": {}},
            {"registry_name": step, "config": config, "state_file": f"{name}.safetensors"},
        ]
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))


def pairs(scales):
    return np.array([(one["centre"], one["scale"]) for one in scales])


@pytest.mark.parametrize("version", [of_0_3, of_0_4])
def test_the_normalisation_is_found_where_each_version_keeps_it(version, tmp_path):
    folder = checkpoint(tmp_path / "policy")
    version(folder)
    before, after = _normalisations(folder, json.loads((folder / "config.json").read_text()))
    state = _scales(folder, "observation.state", 3, before)
    assert pairs(state) == pytest.approx(np.array([(1, 0.5), (2, 0.25), (3, 1)]))
    environment = _scales(folder, "observation.environment_state", 2, before)  # no mode: as it is
    assert environment == [{"centre": 0.0, "scale": 1.0}] * 2
    action = _scales(folder, "action", 2, after)
    assert pairs(action) == pytest.approx(np.array([(1, 2), (0.5, 0.5)]))


def test_a_processor_step_that_the_bundle_would_not_have_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "policy")
    of_0_4(folder)
    path = folder / "policy_preprocessor.json"
    content = json.loads(path.read_text())
    content["steps"].append({"registry_name": "relative_actions_processor", "config": {}})
    path.write_text(json.dumps(content))
    with pytest.raises(SrdpError, match="a step 'relative_actions_processor'"):
        _normalisations(folder, {})


def test_statistics_that_are_missing_are_named(tmp_path):
    folder = checkpoint(tmp_path / "policy")
    of_0_4(folder)
    before, _ = _normalisations(folder, {})
    modes = {**before[0], "ENV": "MIN_MAX"}
    with pytest.raises(SrdpError, match=r"no min and max of observation.environment_state"):
        _scales(folder, "observation.environment_state", 5, (modes, before[1]))


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"noise_scheduler_type": "DDIM", "num_inference_steps": 10}, 2),
        ({"noise_scheduler_type": "DDIM", "num_inference_steps": 10, "prediction_type": "sample"}, 3),
    ],
)
def test_a_lerobot_checkpoint_gives_in_a_bundle_what_lerobot_gives(how, steps, tmp_path):
    lerobot = pytest.importorskip(
        "lerobot.policies.diffusion.modeling_diffusion", reason="needs lerobot: pip install lerobot"
    )
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.factory import make_pre_post_processors

    torch.manual_seed(0)
    sizes = {"observation.state": STATE, "observation.environment_state": ENVIRONMENT}
    config = DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (ENVIRONMENT,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        normalization_mapping={
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MIN_MAX,
            "ACTION": NormalizationMode.MIN_MAX,
        },
        n_obs_steps=steps,
        n_action_steps=8,
        down_dims=(16, 32, 64),
        device="cpu",
        **how,
    )
    policy = lerobot.DiffusionPolicy(config).eval()
    statistics = {}
    for name, size in {**sizes, "action": ACTIONS}.items():
        low, width = torch.randn(size) * 3, torch.rand(size) + 0.5
        statistics[name] = {"min": low, "max": low + width, "mean": low + width / 2, "std": width / 3}
    before, after = make_pre_post_processors(config, dataset_stats=statistics)
    folder = tmp_path / "pretrained_model"
    for part in (policy, before, after):
        part.save_pretrained(folder)

    teacher, spec = read_lerobot(folder, small_spec(horizon=8), ObservationRecipe())
    teacher = teacher.eval().requires_grad_(False)
    observed = {
        name: [statistics[name]["mean"] + statistics[name]["std"] * torch.randn(4, size) for _ in range(steps)]
        for name, size in sizes.items()
    }
    noise = torch.randn(4, config.horizon, ACTIONS)
    policy.reset()
    for ago in range(steps - 1, -1, -1):  # as LeRobot is called on a robot, the oldest first
        batch = before({name: values[ago] for name, values in observed.items()})
        batch = {name: batch[name] for name in sizes}
        policy._queues = lerobot.populate_queues(policy._queues, batch)
    theirs = after(policy.predict_action_chunk(batch, noise=noise)).numpy()

    # ours: the newest first, state and environment of each, in SI units
    states = torch.cat([observed[name][ago] for ago in range(steps) for name in sizes], dim=1).numpy()
    bundle, _ = assemble_bundle(
        tmp_path / "bundle", "small", spec, teacher, {}, CALIBRATION, {}, states, lambda *_: None
    )
    ours = BatchedPolicy(load_bundle(bundle.folder), "teacher")(states, noise[:, None].numpy())
    assert theirs.shape == ours.shape == (4, 8, ACTIONS)
    scale = spec.action_normalisation()[1]
    difference = np.abs(ours - theirs) / scale
    print(f"largest difference {difference.max():.2g} scales, spread of the actions {(theirs / scale).std():.2g}")
    inside = np.abs((theirs - spec.action_normalisation()[0]) / scale) < 0.99
    assert inside.mean() > 0.2 and theirs.std(axis=0).min() > 0.01  # not all clipped, and of state and noise
    assert difference.max() < 1e-3
