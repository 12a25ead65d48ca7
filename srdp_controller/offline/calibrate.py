"""Split conformal thresholds of each student's latent distance, over held-out trajectories."""

from __future__ import annotations

import numpy as np
import torch

from srdp_controller.certify.conformal import conformal_threshold, trajectory_scores
from srdp_controller.engines.bundle import Calibration, PolicyCalibration
from srdp_controller.offline.dataset import Trajectory, full_observations
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.student import Student
from srdp_controller.spec import PolicySpec


@torch.no_grad()
def calibrate_students(
    teacher: DiffusionTeacher,
    students: dict[str, Student],
    trajectories: list[Trajectory],
    spec: PolicySpec,
    alphas: tuple[float, ...],
) -> Calibration:
    """Thresholds such that at most a share alpha of like trajectories raises any alarm."""
    centre, scale = spec.observation_normalisation()
    policies = {}
    for name, student in students.items():
        distances = []
        for trajectory in trajectories:
            observation = torch.from_numpy((full_observations(trajectory, spec)[:-1] - centre) / scale)
            gap = teacher.latent(observation) - student.aligned(observation)
            distances.append(gap.norm(dim=1).numpy())
        scores = trajectory_scores(distances)
        policies[name] = PolicyCalibration(
            thresholds={str(alpha): conformal_threshold(scores, alpha) for alpha in alphas},
            median_score=float(np.median(np.concatenate(distances))),
        )
    return Calibration(score="latent_distance", trajectories=len(trajectories), policies=policies)
