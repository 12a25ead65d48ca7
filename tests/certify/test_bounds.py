import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdp_controller.certify.bounds import (
    TabularMdp,
    bandit_gap,
    good_bad_gap,
    good_bad_mdp,
    return_gap,
    total_variation,
    tv_from_kl,
    tv_from_latent,
)


def random_policy(rng, states, actions):
    return rng.dirichlet(np.full(actions, 0.5), size=states)


@given(st.integers(0, 10_000), st.floats(0.0, 0.98))
def test_no_random_mdp_breaks_theorem_5_2(seed, gamma):
    rng = np.random.default_rng(seed)
    states, actions, most = 4, 3, 2.0
    mdp = TabularMdp(
        rng.dirichlet(np.full(states, 0.3), size=(states, actions)),
        rng.uniform(-most, most, (states, actions)),
        rng.dirichlet(np.ones(states)),
        gamma,
    )
    teacher, student = random_policy(rng, states, actions), random_policy(rng, states, actions)
    mismatch = mdp.occupancy(teacher) @ total_variation(teacher, student)
    assert abs(mdp.value(teacher) - mdp.value(student)) <= return_gap(most, gamma, mismatch) + 1e-9


@given(st.integers(0, 10_000))
def test_the_bandit_bound_is_met_by_the_sign_reward(seed):
    rng = np.random.default_rng(seed)
    p, q = random_policy(rng, 2, 6)
    reward = np.where(p > q, 3.0, -3.0)  # section 6: the reward that tells p and q apart
    assert abs(reward @ p - reward @ q) == pytest.approx(bandit_gap(3.0, float(total_variation(p, q))))


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.3])
def test_the_closed_form_of_the_good_bad_gap_is_that_of_the_mdp(gamma, epsilon):
    mdp = good_bad_mdp(2.0, gamma)
    teacher = np.array([[1.0, 0.0], [1.0, 0.0]])
    student = np.array([[1.0 - epsilon, epsilon], [1.0, 0.0]])
    gap = mdp.value(teacher) - mdp.value(student)
    assert gap == pytest.approx(good_bad_gap(2.0, gamma, epsilon))
    assert gap <= return_gap(2.0, gamma, epsilon)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
def test_the_bound_is_tight_for_small_mismatch(gamma):
    epsilon = 1e-3 * (1.0 - gamma)
    assert good_bad_gap(1.0, gamma, epsilon) / return_gap(1.0, gamma, epsilon) == pytest.approx(gamma, rel=2e-3)


def test_pinsker_bounds_the_total_variation():
    rng = np.random.default_rng(0)
    for p, q in zip(random_policy(rng, 200, 5), random_policy(rng, 200, 5), strict=True):
        kl = float((p * np.log(p / q)).sum())
        assert float(total_variation(p, q)) <= tv_from_kl(kl) + 1e-12


def test_latent_alignment_controls_the_mismatch_of_a_lipschitz_head():
    """Theorem 5.3 on softmax heads over two actions, whose Lipschitz constant in TV is |w| / 4."""
    rng = np.random.default_rng(0)
    w_teacher, w_student = rng.standard_normal(3), rng.standard_normal(3)

    def head(w, z):
        p = 1.0 / (1.0 + np.exp(-z @ w))
        return np.stack([p, 1.0 - p], axis=1)

    z_teacher = rng.standard_normal((500, 3))
    z_student = z_teacher + 0.2 * rng.standard_normal((500, 3))
    actual = total_variation(head(w_teacher, z_teacher), head(w_student, z_student)).mean()
    model = total_variation(head(w_teacher, z_teacher), head(w_student, z_teacher)).mean()
    distance = np.linalg.norm(z_teacher - z_student, axis=1).mean()
    assert actual <= tv_from_latent(float(model), float(np.linalg.norm(w_student)) / 4.0, float(distance))


@pytest.mark.parametrize(
    "call", [lambda: return_gap(1.0, 1.0, 0.1), lambda: bandit_gap(-1.0, 0.1), lambda: tv_from_kl(-1.0)]
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
