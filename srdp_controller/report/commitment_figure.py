"""``srdp report commitment``: what keeps a policy to what it has begun, against the loop's rate, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from srdp_controller.errors import SrdpError
from srdp_controller.report.figures import Line, Panel, draw_panels, save_figure
from srdp_controller.report.tables import joined, label, settings


def commitment_figure(
    files: Positional[tuple[Path, ...]], picture: Path = Path("results/experiment/commitment.png")
) -> dict[str, Any]:
    """Draw success, and the entropy of the ways where there are any, against the loop's rate; 95 % intervals shaded.

    Args:
        files: what `srdp experiment commitment --json` wrote, a row of panels for each task and setting
        picture: file to write; its ending says the format

    Raises:
        SrdpError: there is nothing to draw, or a file is none of the experiment's.
    """
    if not files:
        raise SrdpError("draw what? name the files that `srdp experiment commitment --json` wrote")
    try:
        panels = [
            panel
            for one in joined((json.loads(path.read_text()) for path in files), settings)
            for panel in _panels(one)
        ]
    except (OSError, ValueError, KeyError) as error:
        raise SrdpError(f"{' '.join(map(str, files))}: not of `srdp experiment commitment`: {error!r}") from None
    save_figure(draw_panels(panels, columns=2), picture)
    return {"seed": None, "picture": str(picture)}


def _panels(result: dict[str, Any]) -> list[Panel]:
    rates: dict[str, list[dict[str, Any]]] = {}
    for row in result["table"]:
        rates.setdefault(f"{label(row['policy'])}, {row['way']}", []).append(row)
    axes = {"title": result["task"], "xlabel": "rate of the loop [Hz]", "xscale": "log"}

    def lines(measured: Callable[[dict[str, Any]], tuple[float, list[float]]]) -> list[Line]:
        found = []
        for name, rows in rates.items():
            values, intervals = zip(*(measured(row) for row in rows), strict=True)
            lower, upper = zip(*intervals, strict=True)
            found.append(Line(name, [row["update_rate_hz"] for row in rows], values, lower, upper))
        return found

    success = {**axes, "ylabel": "success", "ylim": (-0.03, 1.03)}
    panels = [Panel(success, lines(lambda row: (row["success_rate"], row["success_interval"])))]
    for metric in result["table"][0]["metric_intervals"]:
        panels.append(Panel({**axes, "ylabel": f"mean {metric}"}, lines(partial(_mean, metric=metric))))
    for way in dict.fromkeys(way for row in result["table"] for way in row["ways"]):
        if all(way in row["ways"] for row in result["table"]):
            panels.append(Panel({**axes, "ylabel": f"entropy of {way} [nats]"}, lines(partial(_entropy, way=way))))
    return panels


def _mean(row: dict[str, Any], metric: str) -> tuple[float, list[float]]:
    return row["metrics"][metric], row["metric_intervals"][metric]


def _entropy(row: dict[str, Any], way: str) -> tuple[float, list[float]]:
    return row["ways"][way]["entropy"], row["ways"][way]["entropy_interval"]
