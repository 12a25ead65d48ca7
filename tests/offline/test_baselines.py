"""Policies trained without distillation: each family's character on a problem with two ways, and the command."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
pytest.importorskip("minari", reason="the offline side needs minari: make setup-train")

from srdp_controller.errors import SrdpError  # noqa: E402
from srdp_controller.experiments.direct_policies import direct_policies  # noqa: E402
from srdp_controller.offline.baselines import POLICIES, TRAININGS, diffusion, flow, regression, train  # noqa: E402
from srdp_controller.offline.baselines.network import ChunkNetwork  # noqa: E402
from srdp_controller.offline.recipe import NetworkRecipe, Recipe  # noqa: E402
from srdp_controller.offline.train_teacher import prefix_columns  # noqa: E402
from srdp_controller.offline.training import fit  # noqa: E402
from srdp_controller.tasks.pushing.spec import pushing_spec  # noqa: E402

SIZES = NetworkRecipe(trunk=(32,), latent=8, head=(48, 48), time_features=16)
REACHER_PATH = Path(__file__).resolve().parents[1] / "robots" / "reacher.yaml"


pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(*_):
    """No progress."""


def two_ways(count, generator):
    """States (n, 1) and chunks (n, 1) about 1 + 0.3 s to either side."""
    state = 2.0 * torch.rand(count, 1, generator=generator) - 1.0
    side = torch.where(torch.rand(count, 1, generator=generator) < 0.5, -1.0, 1.0)
    return state, side * (1.0 + 0.3 * state) + 0.1 * torch.randn(count, 1, generator=generator)


def trained(folder, loss, network=ChunkNetwork, steps=500):
    torch.manual_seed(0)
    model = network(1, 1, SIZES)
    state, action = two_ways(4096, torch.Generator().manual_seed(0))

    def minibatch(step, generator, average):
        index = torch.randint(0, len(state), (128,), generator=generator)
        return loss(model, state[index], action[index], generator), {}

    return fit(
        model,
        minibatch,
        folder=folder,
        name="network",
        steps=steps,
        learning_rate=5e-3,
        ema_decay=0.98,
        seed=0,
        progress=quiet,
    )


def on_each_way(network, sampler, draws=1):
    """Shares of chunks near the left and near the right way, at fresh states."""
    generator = torch.Generator().manual_seed(5)
    state, _ = two_ways(2000, generator)
    chunk = sampler(network, state, torch.randn(2000, draws, 1, generator=generator))
    way = 1.0 + 0.3 * state
    return [float(((chunk - side * way).abs() < 0.35).float().mean()) for side in (-1.0, 1.0)]


def both(shares, least):
    return min(shares) >= least


def test_the_mean_square_error_goes_between_the_ways(tmp_path):
    network = trained(tmp_path, regression.regression_loss)
    assert sum(on_each_way(network, regression.regress)) < 0.02


def test_a_mixture_keeps_both_ways_and_its_noise_decides_which(tmp_path):
    network = trained(tmp_path, regression.mixture_loss, regression.MixtureNetwork)
    assert both(on_each_way(network, regression.draw, draws=2), 0.4)
    state = torch.zeros(64, 1)
    noise = torch.randn(64, 2, 1, generator=torch.Generator().manual_seed(1))
    sides = regression.draw(network, state, noise).sign()
    noise[:, 1] = 0.0
    assert torch.equal(regression.draw(network, state, noise).sign(), sides) and abs(float(sides.mean())) < 0.9


def test_diffusion_needs_steps_to_keep_both_ways(tmp_path):
    process = diffusion.zero_terminal_snr("cosine", 100)
    network = trained(tmp_path, partial(diffusion.v_loss, process=process))
    assert sum(on_each_way(network, partial(diffusion.ddim, process=process, steps=1))) < 0.1
    assert both(on_each_way(network, partial(diffusion.ddim, process=process, steps=20)), 0.35)


def test_flow_matching_needs_steps_and_mean_flow_does_not(tmp_path):
    straight = trained(tmp_path, flow.flow_loss)
    one_step = sum(on_each_way(straight, partial(flow.euler, steps=1)))
    assert one_step < 0.1
    assert both(on_each_way(straight, partial(flow.euler, steps=20)), 0.35)
    (tmp_path / "mean").mkdir()
    network = trained(tmp_path / "mean", flow.mean_flow_loss, flow.MeanFlowNetwork)
    assert both(on_each_way(network, flow.mean_flow), 0.25)


@pytest.mark.parametrize("steps", [1, 4, 100])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_ends_without_any_signal(schedule, steps):
    rates = diffusion.zero_terminal_snr(schedule, steps).alpha_bar
    assert rates[0] == 1.0 and rates[-1] == 0.0 and (np.diff(rates) < 0.0).all() and len(rates) == steps + 1


def test_the_energy_score_is_least_for_the_demonstrated_distribution():
    generator = torch.Generator().manual_seed(3)
    state, demonstrated = two_ways(4000, generator)
    others = torch.stack([two_ways(4000, generator)[1] for _ in range(2)], dim=1)
    way = (1.0 + 0.3 * state)[:, None]
    right = others.sign() * (1.0 + 0.3 * state)[:, None]
    right = train.energy_score(right, demonstrated)
    assert right < train.energy_score(torch.zeros(4000, 2, 1), demonstrated)  # the mean
    assert right < train.energy_score(way.expand(4000, 2, 1), demonstrated)  # one way only


def test_the_table_of_names_is_what_is_trained():
    made = {name: tuple(method.samplers) for name, method in train.methods(Recipe(task="pushing")).items()}
    assert made == TRAININGS and len(set(POLICIES)) == len(POLICIES)


@pytest.mark.parametrize("name", ["bc", "gmm", "diffusion_k2", "flow", "meanflow"])
def test_committed_actions_stay_as_they_are(name):
    spec = pushing_spec().extended(0, 0, 3)
    method = train.methods(Recipe(task="pushing"))[name]
    kind = {"gmm": regression.MixtureNetwork, "meanflow": flow.MeanFlowNetwork}.get(name, ChunkNetwork)
    network = kind(spec.obs_dim, spec.horizon * spec.act_dim, SIZES, prefix_columns(spec))
    prefix = prefix_columns(spec)
    state = torch.randn(4, spec.obs_dim)
    state[:, prefix.length] = 2.0
    noise = torch.randn(4, method.draws, network.action_dim)
    for sampler in method.samplers.values():
        chunk = sampler(network, state, noise)
        given = state[:, list(prefix.actions)][:, : 2 * spec.act_dim]
        assert torch.equal(chunk[:, : 2 * spec.act_dim], given)
        assert not torch.isclose(chunk[:, 2 * spec.act_dim :], state[:, [prefix.actions[-1]]]).any()


@pytest.mark.timeout(400)
def test_the_quick_command_trains_exports_and_does_nothing_twice(tmp_path, capsys):
    ask = partial(direct_policies, quick=True, run_folder=tmp_path, steps=60, processes=1)
    chosen = ("gmm", "consistency_k1")
    with pytest.raises(SrdpError, match=r"flow_k3: choose from: bc gmm"):
        ask(REACHER_PATH, policies=("bc", "flow_k3"))
    result = ask(REACHER_PATH, policies=chosen)
    folder = tmp_path / "baselines" / "quick"
    assert tuple(row["policy"] for row in result["table"]) == chosen
    assert all(check["passed"] for check in result["checks"]) and result["quick"]
    for name in chosen:
        row = json.loads((folder / f"{name}.json").read_text())
        scores = [candidate.pop("energy_score") for candidate in row["candidates"]]
        assert row["knobs"] == row["candidates"][scores.index(min(scores))] and len(set(scores)) > 1
        assert row["steps"] in (15, 60) and row["dataset"] and row["recipe"] and row["commit"]
        assert row["energy_score"] <= min(scores) + 1e-6  # where more steps made it worse, it is the candidate
    assert "consistency_k1" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.onnx")}
    assert ask(REACHER_PATH, policies=chosen)["table"] == result["table"]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.onnx")} == before and len(before) == 2
