"""``srdp report delay``: success against delay on each task that ``srdp experiment latency`` was run on, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from srdp_controller.errors import SrdpError
from srdp_controller.report.figures import Line, Panel, draw_panels, save_figure
from srdp_controller.report.tables import joined, run_as


def _lines(rows: list[dict[str, Any]]) -> list[Line]:
    """A line for each policy and way; what there is to lose is one, of however many steps a task's chain is."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault("instant" if row["way"] == "instant" else run_as(row, level=False), []).append(row)
    lines = []
    for name, own in groups.items():
        rates = [row["success_rate"] for row in own]
        lower, upper = zip(*(row["success_interval"] for row in own), strict=True)
        delays = [] if name == "instant" else [row["added_delay_ms"] for row in own]
        lines.append(Line(name, delays, rates, lower, upper))
    return lines


def delay_figure(
    files: Positional[tuple[Path, ...]], picture: Path = Path("results/experiment/latency.png")
) -> dict[str, Any]:
    """Draw success against delay, a panel for each task, 95 % intervals shaded.

    Args:
        files: what `srdp experiment latency --json` wrote; those of one task share a panel
        picture: file to write; its ending says the format

    Raises:
        SrdpError: there is nothing to draw, or a file is none of the experiment's.
    """
    if not files:
        raise SrdpError("draw what? name the files that `srdp experiment latency --json` wrote")
    try:
        rows_of = {one["task"]: one["table"] for one in joined(json.loads(path.read_text()) for path in files)}
        axes = {"xlabel": "added delay [ms]", "ylabel": "success", "ylim": (-0.03, 1.03)}
        panels = [Panel({"title": task, **axes}, _lines(rows)) for task, rows in rows_of.items()]
    except (OSError, ValueError, KeyError) as error:
        raise SrdpError(f"{' '.join(map(str, files))}: not of `srdp experiment latency`: {error!r}") from None
    save_figure(draw_panels(panels), picture)
    return {"seed": None, "picture": str(picture), "tasks": list(rows_of)}
