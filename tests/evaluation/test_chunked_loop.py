"""Planning ahead of one's own inference time, in the simulated world."""

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs the simulation: make setup")

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.evaluation.chunked_loop import run_chunked
from srdp_controller.evaluation.virtual_loop import command_jerk
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.tasks.pushing.env import ObservedWorld
from srdp_controller.tasks.pushing.spec import pushing_spec


class Recorder:
    """A policy that answers with a chunk of its call's number, and keeps what it was shown."""

    noise_shape = (1, 8, 2)

    def __init__(self):
        self.seen = []

    def __call__(self, observation, noise):
        self.seen.append(observation.copy())
        chunk = np.zeros((len(observation), 8, 2))
        chunk[:, :, 0] = 0.01 * len(self.seen) + 0.001 * np.arange(8)
        return chunk


def drive(policy, joining, delay, spec, seeds=(1,), execute=4):
    scenario = load_scenario("nominal").model_copy(update={"time_limit_s": 1.2})
    return run_chunked(
        policy,
        spec,
        scenario,
        list(seeds),
        delay_steps=delay,
        execute_steps=execute,
        joining=joining,
        noise_shape=(1, 8, 2),
    )


def test_a_prefix_policy_is_told_the_actions_that_are_committed():
    spec = pushing_spec().extended(commands=0, prefix=4)
    policy = Recorder()
    drive(policy, "prefix", 3, spec)
    assert policy.seen[0][0, -1] == 0  # nothing was committed before the first plan
    assert policy.seen[1][0, -1] == 3
    # the second plan begins at step 4: the first chunk's actions 4, 5, 6 are executed meanwhile
    np.testing.assert_allclose(policy.seen[1][0, 8:16:2], [0.014, 0.015, 0.016, 0.0], atol=1e-6)


@pytest.mark.parametrize(("joining", "first"), [("late", 0.02), ("skip", 0.022)])
def test_a_chunk_joins_late_or_skips_what_is_past(joining, first, monkeypatch):
    sent = []
    send = ObservedWorld.send
    monkeypatch.setattr(ObservedWorld, "send", lambda self, command: (sent.append(command[0]), send(self, command)))
    drive(Recorder(), joining, 2, pushing_spec())
    assert sent[:2] == [0.0, 0.0]  # no plan is due yet
    assert sent[6] == pytest.approx(first)  # the second plan, made at step 4, is due at step 6


def test_a_plan_that_takes_as_long_as_it_is_executed_still_joins(monkeypatch):
    sent = []
    send = ObservedWorld.send
    monkeypatch.setattr(ObservedWorld, "send", lambda self, command: (sent.append(command[0]), send(self, command)))
    drive(Recorder(), "skip", 4, pushing_spec())
    assert sent[:4] == [0.0] * 4
    assert sent[4:9] == pytest.approx([0.014, 0.015, 0.016, 0.017, 0.024])


def test_a_plan_longer_than_the_horizon_allows_is_refused():
    with pytest.raises(ValueError, match="d <= s"):
        drive(Recorder(), "skip", 5, pushing_spec())


def test_more_delay_than_the_policy_was_trained_with_is_refused():
    with pytest.raises(ValueError, match="trained with 1"):
        drive(Recorder(), "prefix", 3, pushing_spec().extended(commands=0, prefix=1))


def test_the_shipped_student_pushes_the_box_home_in_chunks(model_dir):
    bundle = load_bundle(model_dir)
    policy = BatchedPolicy(bundle, "student_k1")
    results = run_chunked(
        policy,
        bundle.spec,
        load_scenario("nominal"),
        [11, 12, 13],
        delay_steps=1,
        execute_steps=4,
        joining="skip",
        noise_shape=policy.noise_shape,
    )
    assert sum(result.outcome.success for result in results) >= 2


def test_the_observation_carries_the_commands_that_were_in_force():
    observed = ObservedWorld(load_scenario("nominal"), spec=pushing_spec().extended(commands=2, prefix=0))
    observed.reset(np.random.default_rng(0))
    assert (observed.observation[8:] == 0).all()
    for number in range(3):
        observed.send((0.01 * (number + 1), 0.0))
        for _ in range(12):
            observed.step()
    np.testing.assert_allclose(observed.observation[8:], [0.03, 0, 0.02, 0], atol=1e-6)
    observed.world.close()


def test_jerk_is_the_same_at_every_rate_of_a_smooth_command():
    seconds = np.arange(0, 4, 1 / 240)
    smooth = np.stack([np.sin(2 * np.pi * 0.5 * seconds), 0 * seconds], axis=1)
    held = smooth[(np.arange(len(seconds)) // 12) * 12]  # a command sent at 20 Hz
    expected = (2 * np.pi * 0.5) ** 2 / np.sqrt(2)
    assert command_jerk(smooth) == pytest.approx(expected, rel=0.05)
    assert command_jerk(held) == pytest.approx(expected, rel=0.05)
