import numpy as np
import pytest

from srdp_controller.errors import DatasetError
from srdp_controller.offline.collect import collect, dataset_name, dataset_scenario, disturbance_std
from srdp_controller.offline.dataset import load_trajectories
from srdp_controller.offline.recipe import CollectRecipe, Recipe
from srdp_controller.tasks.gymnasium_task import GymnasiumTask
from srdp_controller.tasks.pushing.task import PushingTask
from srdp_controller.tasks.task import TaskError

pytest.importorskip("minari")
EXPERTS = """
import numpy as np

class Damper:
    def __init__(self, rng):
        self.gain = rng.uniform(0.1, 0.2)

    def reset(self):
        pass

    def act(self, truth):
        return np.array([-self.gain * truth["observation"][2]])

class Broken(Damper):
    def act(self, truth):
        return np.array([np.nan])

class Mute:
    def __init__(self, rng):
        pass
"""


@pytest.fixture
def experts(tmp_path, monkeypatch):
    (tmp_path / "srdp_test_experts.py").write_text(EXPERTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))  # collect sets it; it shall not outlive the test


def record(folder, expert, task="gymnasium:Pendulum-v1", episodes=4, seed=0, keep="all"):
    settings = CollectRecipe(episodes=episodes, processes=1, expert=expert, hole_scenario="", keep=keep)
    recipe = Recipe(task=task, seed=seed, collect=settings)
    spec = GymnasiumTask("Pendulum-v1").spec()
    steps = []
    found = collect(recipe, spec, folder, lambda done, total, text: steps.append((done, total)))
    return found, steps, load_trajectories(folder, dataset_name(task), spec)


def judged_by(monkeypatch, success_return):
    monkeypatch.setattr(
        "srdp_controller.offline.collect.find_task",
        lambda name: GymnasiumTask("Pendulum-v1", success_return=success_return),
    )


def test_an_expert_of_ones_own_is_recorded_on_any_environment(tmp_path, experts):
    found, steps, trajectories = record(tmp_path / "one", "srdp_test_experts:Damper")
    assert (found["episodes"], found["steps"], found["successes"]) == (4, 800, None)
    assert found["metrics"]["return"] == pytest.approx(np.mean([t.reward.sum() for t in trajectories]), rel=1e-4)
    assert steps[-1] == (4, 4)
    for trajectory in trajectories:
        assert trajectory.observation.shape == (200, 3) and not trajectory.terminated
        gains = -trajectory.action[:, 0] / trajectory.observation[:, 2]
        assert np.ptp(gains) < 1e-3  # the expert's own command, not the disturbed one
        assert 0.1 < np.std(trajectory.executed - trajectory.action) < 0.8
    _, _, again = record(tmp_path / "two", "srdp_test_experts:Damper")
    assert [t.digest() for t in again] == [t.digest() for t in trajectories]


def test_an_expert_that_is_missing_or_answers_nonsense_is_named(tmp_path, experts):
    with pytest.raises(TaskError, match=r"has no expert.*--expert"):
        record(tmp_path, "")
    with pytest.raises(TaskError, match="srdp_test_experts:Nobody"):
        record(tmp_path, "srdp_test_experts:Nobody")
    with pytest.raises(TaskError, match=r"srdp_test_experts:Mute' has no reset; expected reset\(\) and act"):
        record(tmp_path, "srdp_test_experts:Mute")
    with pytest.raises(DatasetError, match="expected 1 finite numbers"):
        record(tmp_path, "srdp_test_experts:Broken")


def test_an_expert_that_fails_where_the_world_judges_is_refused(tmp_path, experts, monkeypatch):
    judged_by(monkeypatch, 0.0)
    with pytest.raises(DatasetError, match="succeeded in 0 of 2 episodes only"):
        record(tmp_path, "srdp_test_experts:Damper", episodes=2)


def test_only_successes_are_kept_where_the_recipe_says_so(tmp_path, experts, monkeypatch):
    _, _, everything = record(tmp_path / "all", "srdp_test_experts:Damper", episodes=6)
    returns = [float(trajectory.reward.sum()) for trajectory in everything]
    between = float(np.mean(sorted(returns)[1:3]))  # two of the six fail
    judged_by(monkeypatch, between)
    found, _, kept = record(tmp_path / "kept", "srdp_test_experts:Damper", episodes=6, keep="successes")
    assert (found["episodes"], found["successes"], found["kept"]) == (6, 4, 4)
    wanted = [one.observation for one, earned in zip(everything, returns, strict=True) if earned > between]
    assert all(np.array_equal(one.observation, other) for one, other in zip(kept, wanted, strict=True))


def test_keeping_successes_needs_a_judge_and_an_expert_that_fails_no_more_than_half_the_time(
    tmp_path, experts, monkeypatch
):
    with pytest.raises(DatasetError, match="nothing judges an episode of gymnasium:Pendulum-v1; keep all"):
        record(tmp_path, "srdp_test_experts:Damper", episodes=2, keep="successes")
    judged_by(monkeypatch, 0.0)
    with pytest.raises(DatasetError, match="succeeded in 0 of 2 episodes only"):
        record(tmp_path, "srdp_test_experts:Damper", episodes=2, keep="successes")


def test_the_disturbance_is_in_units_of_each_actions_scale():
    pushing = PushingTask().spec()
    own = Recipe(task="pushing", collect=CollectRecipe(disturbance=0.5))
    assert disturbance_std(own, pushing).tolist() == pytest.approx([0.075, 0.075])


def test_the_dataset_leaves_out_what_shifted_draws():
    task = PushingTask()
    recipe = Recipe(task="pushing", collect=CollectRecipe(hole_scenario="shifted"))
    collected, shifted = dataset_scenario(recipe, task), task.scenario("shifted")
    rng = np.random.default_rng(0)
    for _ in range(500):
        layout = collected.draw_layout(rng)
        assert not any(r.start.holds(layout.object) and r.goal.holds(layout.goal) for r in shifted.layout.regions)
