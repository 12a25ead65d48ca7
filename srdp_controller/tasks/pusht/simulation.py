"""gym-pusht's physics in SI units: a pixel of it stands for a millimetre."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from srdp_controller.tasks.task import TaskError

PIXEL_M = 1e-3
SIZE_M = 0.512
TICK_S = 0.01
AGENT_RADIUS_M = 0.015


class PushTSimulation:
    """The environment's bodies, a tick of physics at a time. Positions (2,) [m], block poses (3,) [m, m, rad].

    Attributes:
        env: gym-pusht's environment.

    Raises:
        TaskError: the extra ``pusht`` is not installed.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        try:
            from gym_pusht.envs.pusht import PushTEnv
        except ImportError as error:
            raise TaskError(f"pusht: {error}; install the extra: pip install 'srdp_controller[pusht]'") from None
        self.env: Any = PushTEnv(obs_type="state", render_mode=render_mode)
        self.env.reset(seed=0)

    @property
    def agent(self) -> np.ndarray:
        """Where the pusher is."""
        return np.array(self.env.agent.position) * PIXEL_M

    @property
    def block(self) -> np.ndarray:
        """Pose of the block; its angle is unbounded."""
        body = self.env.block
        return np.array([body.position[0] * PIXEL_M, body.position[1] * PIXEL_M, body.angle])

    @property
    def goal(self) -> np.ndarray:
        """Pose of the block's place."""
        x, y, angle = self.env.goal_pose
        return np.array([x * PIXEL_M, y * PIXEL_M, angle])

    @cached_property
    def outline(self) -> np.ndarray:
        """Corners (n, 2) of the block in its own frame, counter-clockwise [m]."""
        import shapely
        from shapely.geometry.polygon import orient

        bars = [shapely.Polygon([tuple(corner) for corner in bar.get_vertices()]) for bar in self.env.block.shapes]
        return np.array(orient(shapely.union_all(bars)).exterior.coords)[:-1] * PIXEL_M

    def coverage(self) -> float:
        """Share of its place that the block covers."""
        return float(self.env._get_coverage())

    def place(self, agent: np.ndarray, block: np.ndarray) -> None:
        """Put pusher and block somewhere, at rest."""
        env = self.env
        env.agent.position, env.agent.velocity = (agent / PIXEL_M).tolist(), (0.0, 0.0)
        env.block.angle, env.block.position = float(block[2]), (block[:2] / PIXEL_M).tolist()
        env.block.velocity, env.block.angular_velocity = (0.0, 0.0), 0.0
        for body in (env.agent, env.block):
            env.space.reindex_shapes_for_body(body)

    def tick(self, target: np.ndarray) -> None:
        """Advance by ``TICK_S`` while the pusher is driven towards ``target``, as the environment does it."""
        env = self.env
        (x, y), (vx, vy) = env.agent.position, env.agent.velocity
        to_x, to_y = target[0] / PIXEL_M, target[1] / PIXEL_M
        vx += (env.k_p * (to_x - x) - env.k_v * vx) * TICK_S
        vy += (env.k_p * (to_y - y) - env.k_v * vy) * TICK_S
        env.agent.velocity = (vx, vy)
        env.space.step(TICK_S)


def placed(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the block's frame where the block is at ``pose`` (3,)."""
    cosine, sine = math.cos(pose[2]), math.sin(pose[2])
    moved: np.ndarray = points @ np.array([[cosine, sine], [-sine, cosine]]) + pose[:2]
    return moved
