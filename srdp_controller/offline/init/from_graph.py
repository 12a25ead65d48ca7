"""A draft from a running ROS graph: what is said in it is recorded for a while, as a bag."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError
from srdp_controller.offline.init.draft import DECIDE, Draft, rounded
from srdp_controller.offline.init.from_bag import Wanted, draft_from_bag
from srdp_controller.recordings.survey import TopicSurvey, looks_like_commands
from srdp_controller.spec import ARRAY, TRAJECTORY, TWIST

PATIENCE_S = 30.0  # for the recorder to start and to end


def draft_from_graph(task: str, seconds: float, wanted: Wanted) -> Draft:
    """A spec's draft of what is said in this shell's ROS domain, and of what waits for commands there.

    The robot stands, so that limits are wide guesses.

    Raises:
        SrdpError: nothing is said, no ROS is here, or as of ``draft_from_bag``.
    """
    with tempfile.TemporaryDirectory() as folder:
        bag, found = Path(folder) / "graph", Path(folder) / "graph.json"
        # another process: the offline side imports no ROS
        words = ["record", str(bag), "--duration", str(seconds), "--json", str(found)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "srdp_controller.cli", *words],
                stderr=subprocess.PIPE,
                text=True,
                timeout=seconds + PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SrdpError(f"--graph {seconds:g}: the recorder did not end within {PATIENCE_S:g} s more") from None
        if done.returncode:
            reason = done.stderr.strip().splitlines()
            raise SrdpError(f"--graph: {reason[-1].removeprefix('srdp: ') if reason else 'the recorder failed'}")
        topics = json.loads(found.read_text())["topics"]
        silent = {
            topic: known["type"]
            for topic, known in topics.items()
            if known["subscribers"]
            and not known["messages"]
            and known["type"] in (TWIST, ARRAY, TRAJECTORY)
            and (topic in wanted.command or looks_like_commands(TopicSurvey(topic, known["type"], stamped=False)))
        }
        draft = draft_from_bag(task, bag, wanted, silent, standing=True)
    draft.origin = "the running ROS graph"
    draft.remarks.append(f"{DECIDE}: limits. The robot stood while it was listened to; `srdp init --bag` measures them")
    for _, entries in draft.observation:
        for entry in entries:
            _widen(entry)
    return draft


def _widen(entry: dict[str, Any]) -> None:
    """Limits within which the robot may move."""
    if entry["source"].get("kind") == "rotation":
        entry["scale"] = 0.5
        return
    centre = entry["centre"]
    reach = math.pi if entry["unit"] == "rad" else max(1.0, abs(centre))
    entry["lower"], entry["upper"] = min(entry["lower"], centre - reach), max(entry["upper"], centre + reach)
    entry["lower"], entry["upper"] = rounded(entry["lower"]), rounded(entry["upper"])
    entry["scale"] = rounded(max(entry["scale"], reach / 4.0))
