"""PyBullet without its chatter: its C code prints at import and at every connection."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _quiet(descriptor: int) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(descriptor)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(null)
        os.close(saved)


with _quiet(2):
    import pybullet
    from pybullet_utils.bullet_client import BulletClient


def connect(gui: bool) -> BulletClient:
    """A physics client of its own, with a window or without."""
    with _quiet(1):
        client = BulletClient(connection_mode=pybullet.GUI if gui else pybullet.DIRECT)
    if gui:
        client.configureDebugVisualizer(pybullet.COV_ENABLE_GUI, 0)
        client.resetDebugVisualizerCamera(0.9, 180.0, -38.0, [0.0, 0.0, 0.0])
    return client
