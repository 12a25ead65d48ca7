"""``srdp report replay``: where in a chunk, in which component, policies stray from what was recorded, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from srdp_controller.errors import SrdpError
from srdp_controller.report.figures import Line, Panel, draw_panels, save_figure


def replay_figure(result: Positional[Path], picture: Path = Path("replay.png")) -> dict[str, Any]:
    """Draw error against the time in the chunk, a panel for each component of the action.

    Args:
        result: what `srdp eval replay --json` wrote
        picture: file to write; its ending says the format

    Raises:
        SrdpError: the file is none of the command's.
    """
    try:
        content = json.loads(result.read_text())
        table, step_s = content["table"], content["step_s"]
        panels = []
        for action in dict.fromkeys(row["action"] for row in table):
            rows = [row for row in table if row["action"] == action]
            times = [step * step_s for step in range(len(rows[0]["error_by_step"]))]
            lines = [Line(row["policy"], times, row["error_by_step"]) for row in rows]
            axes = {"title": action, "xlabel": "time in the chunk [s]", "ylabel": f"error [{rows[0]['unit']}]"}
            panels.append(Panel(axes, lines))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SrdpError(f"{result}: not of `srdp eval replay`: {error!r}") from None
    save_figure(draw_panels(panels), picture)
    return {"seed": None, "picture": str(picture)}
