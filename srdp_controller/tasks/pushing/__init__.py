"""Pushing a disc (or a box) round a post to a goal with a KUKA iiwa, simulated in PyBullet."""
