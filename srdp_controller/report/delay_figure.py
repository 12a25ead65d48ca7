"""``srdp report delay``: success against delay on each task that ``srdp experiment latency`` was run on, a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.report.tables import joined, run_as

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22", "#17becf")
MARKERS = "osvD^x*P<>"


def _line(row: dict[str, Any]) -> str:
    """A row's line in every panel; what there is to lose is one, of however many steps a task's chain is."""
    return "instant" if row["way"] == "instant" else run_as(row, level=False)


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
    from matplotlib.figure import Figure

    if not files:
        raise SrdpError("draw what? name the files that `srdp experiment latency --json` wrote")
    try:
        rows_of = {one["task"]: one["table"] for one in joined(json.loads(path.read_text()) for path in files)}
    except (OSError, ValueError, KeyError) as error:
        raise SrdpError(f"{' '.join(map(str, files))}: not of `srdp experiment latency`: {error!r}") from None
    labels = list(dict.fromkeys(_line(row) for rows in rows_of.values() for row in rows))
    columns = min(3, len(rows_of))
    lines = -(-len(rows_of) // columns)
    figure = Figure(figsize=(1.0 + 4.0 * columns, 0.9 + 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (task, rows) in zip(panels, rows_of.items(), strict=False):
        for number, name in enumerate(labels):
            own = [row for row in rows if _line(row) == name]
            if not own:
                continue
            delays = [row["added_delay_ms"] for row in own]
            lower, upper = zip(*(row["success_interval"] for row in own), strict=True)
            colour = COLOURS[number % len(COLOURS)]
            if own[0]["way"] == "instant":  # what there is to lose
                panel.axhline(own[0]["success_rate"], linestyle="--", color=colour, label=name)
                continue
            panel.fill_between(delays, lower, upper, color=colour, alpha=0.12, linewidth=0)
            panel.plot(
                delays,
                [row["success_rate"] for row in own],
                marker=MARKERS[number % len(MARKERS)],
                color=colour,
                label=name,
                markersize=5,
            )
        panel.set(title=task, xlabel="added delay [ms]", ylabel="success", ylim=(-0.03, 1.03))
    for panel in panels[len(rows_of) :]:
        panel.set_axis_off()
    handles: dict[str, Any] = {}
    for panel in panels:
        for line, name in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, line)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format=picture.suffix[1:], dpi=100)
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_file(picture, image.getvalue())
    print(picture)
    return {"seed": None, "picture": str(picture), "tasks": list(rows_of)}
