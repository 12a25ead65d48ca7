"""The return-gap bounds of section 5 and the constructions of section 6 that show them tight.

Everything is exact arithmetic on numbers and small tabular MDPs; how E[TV] is estimated is not decided
here (``divergences``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _check(max_reward: float, gamma: float | None = None) -> None:
    if max_reward < 0:
        raise ValueError(f"max_reward {max_reward}: expected at least 0")
    if gamma is not None and not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma {gamma}: expected in [0, 1)")


def bandit_gap(max_reward: float, expected_tv: float) -> float:
    """Theorem 5.1: |E r(s, a_T) - E r(s, a_K)| <= 2 R_max E_d[TV]."""
    _check(max_reward)
    return 2.0 * max_reward * expected_tv


def return_gap(max_reward: float, gamma: float, expected_tv: float) -> float:
    """Theorem 5.2: |J(pi_T) - J(pi_K)| <= 2 R_max / (1 - gamma)^2 E_{s ~ d_T}[TV], at most 2 R_max / (1 - gamma).

    The second bound is the widest gap that any two returns can have.
    """
    _check(max_reward, gamma)
    return min(2.0 * max_reward / (1.0 - gamma) ** 2 * expected_tv, 2.0 * max_reward / (1.0 - gamma))


def tv_from_kl(kl: float) -> float:
    """Pinsker's inequality: TV <= sqrt(KL / 2), and never above 1."""
    if kl < 0:
        raise ValueError(f"kl {kl}: expected at least 0")
    return min(1.0, float(np.sqrt(kl / 2.0)))


def tv_from_latent(model_tv: float, lipschitz: float, latent_distance: float) -> float:
    """Theorem 5.3: E[TV] <= eps_model + L E||z_T - z_K||, and never above 1."""
    return min(1.0, model_tv + lipschitz * latent_distance)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """TV of discrete distributions along the last axis."""
    distance: np.ndarray = 0.5 * np.abs(p - q).sum(axis=-1)
    return distance


@dataclass(frozen=True)
class TabularMdp:
    """Transitions (S, A, S), rewards (S, A), start distribution (S,), discount."""

    transition: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    gamma: float

    def occupancy(self, policy: np.ndarray) -> np.ndarray:
        """Discounted state occupancy d_pi (S,), summing to one, of a policy (S, A)."""
        between = np.einsum("sa,sat->st", policy, self.transition)
        system = np.eye(len(self.start)) - self.gamma * between.T
        occupancy: np.ndarray = (1.0 - self.gamma) * np.linalg.solve(system, self.start)
        return occupancy

    def value(self, policy: np.ndarray) -> float:
        """Discounted return J(pi) = sum_s d(s) sum_a pi(a|s) r(s, a) / (1 - gamma)."""
        per_state = (policy * self.reward).sum(axis=1)
        return float(self.occupancy(policy) @ per_state / (1.0 - self.gamma))


def good_bad_mdp(max_reward: float, gamma: float) -> TabularMdp:
    """Section 6's construction: state 0 good, state 1 bad and absorbing; action 0 stays, action 1 falls."""
    _check(max_reward, gamma)
    transition = np.zeros((2, 2, 2))
    transition[0, 0, 0] = transition[0, 1, 1] = transition[1, :, 1] = 1.0
    reward = np.array([[max_reward] * 2, [-max_reward] * 2])
    return TabularMdp(transition, reward, np.array([1.0, 0.0]), gamma)


def good_bad_gap(max_reward: float, gamma: float, epsilon: float) -> float:
    """Its return gap in closed form, 2 R gamma eps / ((1 - gamma) (1 - gamma (1 - eps))).

    As eps -> 0 it is gamma times the bound of Theorem 5.2: both the linear dependence on eps and the
    factor (1 - gamma)^-2 are unavoidable.
    """
    _check(max_reward, gamma)
    return 2.0 * max_reward * gamma * epsilon / ((1.0 - gamma) * (1.0 - gamma * (1.0 - epsilon)))
