"""Policies on batches: what every evaluation runs, whatever the policy is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.spec import PolicySpec

Evaluate = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Policy:
    """A policy on batches.

    Attributes:
        name: as in results.
        noise_shape: (n_noise, horizon, act_dim) of one draw.
        evaluate: observation (B, obs_dim) and noise (B, *noise_shape) -> chunk (B, horizon, act_dim), latent and
            teacher's latent (B, latent_dim); raw SI units, float32.
        latent_dim: 1 where there is no latent (they are then zero, and no test is made on them).
        guided: ``evaluate`` takes, after the noise, the rest of the chunk in force (B, horizon, act_dim) and how much
            each of its actions binds (B, horizon); all zero where there is none.
    """

    name: str
    noise_shape: tuple[int, int, int]
    evaluate: Evaluate
    latent_dim: int = 1
    guided: bool = False

    def actions(self, *inputs: np.ndarray) -> np.ndarray:
        """Chunks (B, horizon, act_dim) alone."""
        return self.evaluate(*inputs)[0]


def without_latent(actions: Callable[..., np.ndarray]) -> Evaluate:
    """``Policy.evaluate`` of a policy that answers with chunks only."""

    def evaluate(observation: np.ndarray, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nothing = np.zeros((len(observation), 1), np.float32)
        return actions(observation, *inputs), nothing, nothing

    return evaluate


def bundled(bundle: LoadedBundle, name: str) -> Policy:
    """A policy of the bundle.

    Raises:
        SrdpError: it has none of that name.
    """
    entry = bundle.policy(name)
    return Policy(name, entry.noise_shape, BatchedPolicy(bundle, name).all, entry.latent_dim, entry.guided)


class BatchedEngine:
    """One robot's share of a batched policy: an ``Engine`` whose buffers ``run_together`` fills."""

    provider = "cpu"
    evaluations = 1

    def __init__(self, policy: Policy, spec: PolicySpec, candidates: int = 1) -> None:
        self.policy = policy
        self.name = policy.name
        self.observation = np.zeros((candidates, spec.obs_dim), np.float32)
        self.noise = np.zeros((candidates, *policy.noise_shape), np.float32)
        if policy.guided:
            self.previous = np.zeros((candidates, spec.horizon, spec.act_dim), np.float32)
            self.weights = np.zeros((candidates, spec.horizon), np.float32)
        self.action = np.zeros((candidates, spec.horizon, spec.act_dim), np.float32)
        self.latent = np.zeros((candidates, policy.latent_dim), np.float32)
        self.teacher_latent = np.zeros((candidates, policy.latent_dim), np.float32)

    def run(self) -> None:
        """Evaluate the policy for this robot alone."""
        run_together([self])

    def cancel(self) -> None:
        """Nothing runs in another thread."""


def run_together(engines: Sequence[BatchedEngine]) -> None:
    """One evaluation of each policy for all the robots that run it."""
    groups: dict[int, list[BatchedEngine]] = {}
    for engine in engines:
        groups.setdefault(id(engine.policy), []).append(engine)
    for group in groups.values():
        policy = group[0].policy
        names = ("observation", "noise", "previous", "weights") if policy.guided else ("observation", "noise")
        answers = policy.evaluate(*(np.concatenate([getattr(engine, name) for engine in group]) for name in names))
        start = 0
        for engine in group:
            rows = slice(start, start := start + len(engine.observation))
            engine.action[:], engine.latent[:], engine.teacher_latent[:] = (answer[rows] for answer in answers)
