"""Every ingredient of section 4, on networks small enough to train in a second."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from box import box_spec  # noqa: E402

from srdp_controller.offline.critic import TwinCritic, best_of, best_of_coupled, train_critic  # noqa: E402
from srdp_controller.offline.dataset import Samples  # noqa: E402
from srdp_controller.offline.distill import build_student, carrying_clean, distill  # noqa: E402
from srdp_controller.offline.export.graphs import export_student, export_teacher  # noqa: E402
from srdp_controller.offline.queries import query_levels, query_teacher  # noqa: E402
from srdp_controller.offline.recipe import CriticRecipe, DistillRecipe, ObservationRecipe, TeacherRecipe  # noqa: E402
from srdp_controller.offline.train_teacher import CommandInputs, build_teacher, train_teacher  # noqa: E402
from srdp_controller.policy.denoiser import ForwardProcess  # noqa: E402
from srdp_controller.policy.noise_schedule import SCHEDULES  # noqa: E402
from srdp_controller.policy.samplers import ddim_step  # noqa: E402

SMALL = {"trunk": (32,), "latent": 8, "head": (64, 64), "time_features": 8}


TOY = {"network": SMALL, "diffusion_steps": 16, "prediction": "v"}


pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(*_):
    """No progress."""


def toy_teacher(spec=None, seed=0, **recipe):
    torch.manual_seed(seed)
    return build_teacher(TeacherRecipe(network=SMALL, diffusion_steps=16, **recipe), spec or box_spec()).eval()


def rewarded(observation, action):
    """Reward 1 for going to the positive side, 0 for the other; episodes of one chunk."""
    reward = (action[:, 0] > 0).astype(np.float32)
    return Samples(observation, action, action, reward, observation, np.zeros(len(observation), np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher of two-way behaviour: chunks all +1 or all -1, and a sideways shift by the state."""
    rng = np.random.default_rng(0)
    observation = rng.standard_normal((3000, 8)).astype(np.float32)
    side = np.where(rng.random(3000) < 0.5, -1.0, 1.0)
    action = np.tile(side[:, None], (1, 16)) + 0.1 * rng.standard_normal((3000, 16))
    action[:, 1::2] = 0.5 * observation[:, :1] + 0.1 * rng.standard_normal((3000, 8))
    recipe = TeacherRecipe.model_validate({**TOY, "steps": 1500, "ema_decay": 0.99, "learning_rate": 2e-3})
    folder = tmp_path_factory.mktemp("teacher")
    action = action.astype(np.float32)
    teacher = train_teacher(recipe, box_spec(), rewarded(observation, action), 0, folder, quiet)
    return teacher, observation, action


def ask(trained, **recipe):
    teacher, observation, action = trained
    recipe = DistillRecipe.model_validate({"queries": 2000, "steps": 400, "batch": 128, "students": (1, 2), **recipe})
    return recipe, query_teacher(teacher, rewarded(observation, action), recipe, 0, quiet)


# --- teacher -----------------------------------------------------------------------------------


def test_v_prediction_stands_for_the_noise_it_was_made_of():
    process = ForwardProcess(SCHEDULES["cosine"](16), "v")
    clean, epsilon, t = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([1, 4, 8, 12, 15])
    noisy, v = process.noisy(clean, epsilon, t), process.target(clean, epsilon, t)
    torch.testing.assert_close(process.epsilon(noisy, v, *process.rates(t)), epsilon, atol=1e-5, rtol=1e-4)


def test_the_original_trunk_reads_action_and_time():
    teacher = toy_teacher(trunk_input="state_action_time")
    assert teacher.timed and not toy_teacher().timed
    state, t = torch.zeros(2, 8), torch.tensor([8, 8])
    context = teacher.context(state)
    time = teacher.time_features(t)
    assert teacher.predict(torch.zeros(2, 16), context, time).shape == (2, 16)
    assert teacher.latent(state).shape == (2, 8)


def test_a_batched_step_is_the_samplers_step():
    teacher = toy_teacher()
    state, noise = torch.randn(4, 8), torch.randn(4, 16)
    _, kept = teacher.sample(state, noise, keep=[16, 15])
    t = torch.full((4,), 16)
    moved = teacher.step(noise, teacher.context(state), t, t - 1)
    torch.testing.assert_close(moved, kept[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher.step(noise, teacher.context(state), t, t), noise)


# --- committed actions and past commands -------------------------------------------------------


def test_committed_actions_are_kept_and_the_rest_answers_to_them():
    spec = box_spec().extended(commands=0, prefix=3)
    teacher = toy_teacher(spec)
    state = torch.zeros(2, spec.obs_dim)
    state[:, 8:14] = torch.arange(6) / 10
    state[0, -1], state[1, -1] = 2, 0
    chunk, _ = teacher.sample(state, torch.randn(1, 16).repeat(2, 1))
    torch.testing.assert_close(chunk[0, :4], state[0, 8:12])  # two actions of two entries, not three
    assert not torch.allclose(chunk[1, :4], state[1, 8:12])
    assert not torch.allclose(chunk[0, 4:], chunk[1, 4:])


def test_the_training_prefix_is_the_beginning_of_what_was_sent():
    spec = box_spec().extended(commands=1, prefix=3)
    inputs = CommandInputs(spec, ObservationRecipe(history_dropout=0.5))
    state, chunk = torch.ones(400, spec.obs_dim), torch.randn(400, 16)
    filled = inputs(state, chunk, torch.Generator().manual_seed(0))
    length = filled[:, -1].long()
    assert set(length.tolist()) == {0, 1, 2, 3}
    for row in range(20):
        count = 2 * int(length[row])
        torch.testing.assert_close(filled[row, 10 : 10 + count], chunk[row, :count])
        assert (filled[row, 10 + count : 16] == 0).all()
    hidden = (filled[:, 8] == 0).float().mean()
    assert 0.4 < float(hidden) < 0.6 and torch.equal(filled[:, :8], state[:, :8])


def test_the_loss_does_not_count_committed_entries():
    spec = box_spec().extended(commands=0, prefix=3)
    teacher = toy_teacher(spec)
    state, chunk = torch.zeros(64, spec.obs_dim), torch.randn(64, 16)
    state[:, 8:14], state[:, -1] = chunk[:, :6], 3
    wrong = chunk.clone()
    wrong[:, :6] += 100.0  # never seen: the committed entries come from the observation
    one = teacher.loss(state, chunk, 0.0, torch.Generator().manual_seed(0))[0]
    other = teacher.loss(state, wrong, 0.0, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(one, other)


# --- distillation ------------------------------------------------------------------------------


def test_the_carrying_clean_action_lands_exactly_on_the_next_level():
    here, there = torch.randn(4, 3), torch.randn(4, 3)
    clean = carrying_clean(here, there, torch.full((4,), 0.3), torch.full((4,), 0.8))
    torch.testing.assert_close(ddim_step(here, clean, 0.3, 0.8), there, atol=1e-4, rtol=1e-4)


def test_the_cached_chains_keep_the_students_timesteps():
    assert query_levels(toy_teacher(), (1, 2)) == [16, 8, 0]


METHODS = [
    ({"method": "trajectory"}, 1, 0.65),
    ({"method": "trajectory"}, 2, 0.65),
    ({"method": "consistency"}, 1, 0.8),
    ({"method": "trajectory", "trunk": "frozen"}, 1, 0.65),
    ({"method": "trajectory", "network": {**SMALL, "trunk": (24,), "latent": 6}, "steps": 800}, 1, 0.9),
]


@pytest.mark.parametrize(("recipe", "steps", "tolerance"), METHODS)
def test_each_method_brings_the_student_to_its_teacher(trained, tmp_path, recipe, steps, tolerance):
    teacher, observation, _ = trained
    recipe, queries = ask(trained, **recipe)
    student = distill(teacher, steps, queries, recipe, 0, tmp_path, quiet)
    state, noise = torch.from_numpy(observation[:500]), torch.randn(500, 16, generator=torch.Generator().manual_seed(5))
    wanted, _ = teacher.sample(state, noise)
    with torch.no_grad():
        answered, _ = student(state, noise)
        plain, _ = teacher.sample(state, noise, steps=1)
    error = float((answered - wanted).square().mean().sqrt())
    baseline = float((plain - wanted).square().mean().sqrt())
    assert error < tolerance * baseline
    assert json.loads((tmp_path / f"student_k{steps}.jsonl").read_text().splitlines()[-1])["step"] > 0


def test_the_log_tells_what_was_learned_from_what_was_learned_by_heart(trained, tmp_path):
    teacher = trained[0]
    recipe, many = ask(trained, steps=1500)
    few = many.subset(torch.arange(40))
    ratios = []
    for name, queries in (("many", many), ("few", few)):
        (tmp_path / name).mkdir()
        distill(teacher, 1, queries, recipe, 0, tmp_path / name, quiet)
        last = json.loads((tmp_path / name / "student_k1.jsonl").read_text().splitlines()[-1])
        ratios.append(last["held_out"] / last["action"])
    assert ratios[0] < 3.0 < 10.0 < ratios[1]


def test_a_consistency_student_of_several_steps_draws_fresh_noise(trained, tmp_path):
    teacher, observation, _ = trained
    recipe, queries = ask(trained, method="consistency")
    student = distill(teacher, 2, queries, recipe, 0, tmp_path, quiet)
    assert student.draws == 2
    state = torch.from_numpy(observation[:400])
    with torch.no_grad():
        first = student(state, torch.randn(400, 2, 16))[0][:, 0]
    assert 0.3 < float((first > 0).float().mean()) < 0.7 and float(first.abs().mean()) > 0.6


def test_a_frozen_trunk_stays_what_it_was(trained, tmp_path):
    teacher, _, _ = trained
    recipe, queries = ask(trained, trunk="frozen", steps=20)
    student = distill(teacher, 1, queries, recipe, 0, tmp_path, quiet)
    for mine, its in zip(student.trunk.parameters(), teacher.trunk.parameters(), strict=True):
        assert torch.equal(mine, its)


# --- critic ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def critic(trained, tmp_path_factory):
    recipe = CriticRecipe(steps=600, hidden=(64,), learning_rate=3e-3, target_decay=0.9)
    return train_critic(recipe, trained[0], rewarded(*trained[1:]), 0, tmp_path_factory.mktemp("critic"), quiet)


def test_the_critic_learns_what_the_rewards_say(trained, critic):
    _, observation, action = trained
    value = critic(torch.from_numpy(observation), torch.from_numpy(action))
    good = torch.from_numpy(action[:, 0] > 0)
    assert float(value[good].mean()) > 0.8 and float(value[~good].mean()) < 0.2


def test_a_guided_teacher_prefers_what_earns_more(trained, critic, tmp_path):
    teacher, observation, action = trained
    critic_recipe = {"enabled": True, "guidance_weight": 1.0, "policy_steps": 600}
    recipe = TeacherRecipe.model_validate({**TOY, "ema_decay": 0.99, "learning_rate": 2e-3, "critic": critic_recipe})
    data = rewarded(observation, action)
    guided = train_teacher(recipe, box_spec(), data, 0, tmp_path, quiet, critic=critic, start=teacher)
    state, noise = torch.from_numpy(observation[:500]), torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    before = float((teacher.sample(state, noise)[0][:, 0] > 0).float().mean())
    after = float((guided.sample(state, noise)[0][:, 0] > 0).float().mean())
    assert 0.3 < before < 0.7 and after > before + 0.2


def test_the_best_of_several_samples_is_the_one_with_the_largest_value(trained, critic):
    teacher, observation, _ = trained
    state = torch.from_numpy(observation[:100])
    chosen = best_of(teacher, critic, state, torch.randn(100, 8, 16, generator=torch.Generator().manual_seed(2)))
    assert float((chosen[:, 0] > 0).float().mean()) > 0.95


def test_a_student_of_the_max_q_teacher_takes_what_earns_more(trained, critic, tmp_path):
    teacher, observation, action = trained
    recipe = DistillRecipe(queries=1600, steps=600, batch=128, students=(1,), augmented_share=0.0)
    queries = query_teacher(teacher, rewarded(observation, action), recipe, 0, quiet, critic=critic, candidates=4)
    assert queries.timesteps == [16, 0] and len(queries) == 1600
    student = distill(teacher, 1, queries, recipe, 0, tmp_path, quiet)
    state = torch.from_numpy(observation[:400])
    with torch.no_grad():
        side = student(state, torch.randn(400, 16, generator=torch.Generator().manual_seed(3)))[0][:, 0]
    assert float((side > 0).float().mean()) > 0.85


def test_the_coupling_keeps_every_max_q_action_once(trained, critic):
    teacher, observation, _ = trained
    state = torch.from_numpy(observation[:3])
    noise, best = best_of_coupled(teacher, critic, state, 4, 8, torch.Generator().manual_seed(4))
    assert noise.shape == best.shape == (3, 8, 16)
    assert all(len({tuple(row) for row in state_rows.round(5).tolist()}) == 8 for state_rows in best.numpy())
    own, _ = teacher.sample(state.repeat_interleave(8, dim=0), noise.flatten(0, 1))
    coupled = (own - best.flatten(0, 1)).square().sum()
    shuffled = (own - best[:, torch.arange(8).roll(3)].flatten(0, 1)).square().sum()
    assert float(coupled) <= float(shuffled) + 1e-3


def test_twin_critics_count_the_smaller():
    critic = TwinCritic(3, 2, (8,))
    state, action = torch.randn(50, 3), torch.randn(50, 2)
    one, two = critic.both(state, action)
    value = critic(state, action)
    assert bool((value <= one).all() and (value <= two).all())
    assert bool(((value == one) | (value == two)).all()) and bool((one != two).any())


# --- export ------------------------------------------------------------------------------------


def run_graph(data, observation, noise):
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["action", "latent", "teacher_latent"], {"observation": observation, "noise": noise})


VARIANTS = [
    ({"prediction": "v"}, 0, 0, {}),
    ({"trunk_input": "state_action_time"}, 0, 0, {}),
    ({}, 2, 3, {}),
    ({}, 0, 0, {"method": "consistency"}),
    ({}, 0, 0, {"network": {**SMALL, "latent": 5}}),
]


@pytest.mark.parametrize(("teacher_recipe", "history", "prefix", "distilling"), VARIANTS)
def test_every_variant_exports_to_what_torch_computes(teacher_recipe, history, prefix, distilling):
    spec = box_spec().extended(commands=history, prefix=prefix)
    teacher = toy_teacher(spec, **teacher_recipe)
    student = build_student(teacher, 2, DistillRecipe.model_validate(distilling)).eval()
    rng = np.random.default_rng(1)
    centre, scale = spec.observation_normalisation()
    observation = (centre + scale * rng.standard_normal((5, spec.obs_dim))).astype(np.float32)
    if prefix:
        observation[:, -1] = [0, 1, 2, 3, 3]
    normalised = torch.from_numpy((observation - centre) / scale)
    noise = rng.standard_normal((5, student.draws, 8, 2)).astype(np.float32)
    draws = torch.from_numpy(noise.reshape(5, student.draws, 16))
    with torch.no_grad():
        action, latent, teacher_latent = run_graph(export_student(student, teacher, spec), observation, noise)
        expected, aligned = student(normalised, draws if student.draws > 1 else draws[:, 0])
        np.testing.assert_allclose(action, expected.reshape(5, 8, 2).numpy() * 0.1, atol=2e-5)
        np.testing.assert_allclose(latent, aligned.numpy(), atol=1e-5)
        np.testing.assert_allclose(teacher_latent, teacher.latent(normalised).numpy(), atol=1e-5)
        action, _, _ = run_graph(export_teacher(teacher, spec), observation, noise[:, :1])
        expected = teacher.sample(normalised, draws[:, 0])[0].clamp(-4, 4)
        np.testing.assert_allclose(action, expected.reshape(5, 8, 2).numpy() * 0.1, atol=2e-5)


def test_the_skipped_graph_of_a_v_teacher_is_plain_ddim():
    import onnx

    from srdp_controller.offline.export.teacher_graph import skip_steps

    spec = box_spec()
    teacher = toy_teacher(prediction="v")
    noise = np.random.default_rng(0).standard_normal((4, 1, 8, 2)).astype(np.float32)
    observation = np.tile(spec.observation_normalisation()[0], (4, 1))
    model = skip_steps(onnx.load_from_string(export_teacher(teacher, spec)), 4)
    action, _, _ = run_graph(model.SerializeToString(), observation, noise)
    expected, _ = teacher.sample(torch.zeros(4, 8), torch.from_numpy(noise.reshape(4, -1)), steps=4)
    np.testing.assert_allclose(action, expected.reshape(4, 8, 2).numpy() * 0.1, atol=1e-4)
