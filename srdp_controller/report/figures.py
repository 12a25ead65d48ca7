"""Figures of several panels with the same lines, each with a band for its interval."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srdp_controller.files import write_file

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22", "#17becf")
MARKERS = "osvD^x*P<>"


class Line(NamedTuple):
    """A line; without ``x`` a dashed level over the whole panel."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    lower: Sequence[float] = ()
    upper: Sequence[float] = ()


class Panel(NamedTuple):
    """A panel; ``axes`` are properties of matplotlib's Axes by name (xlabel, ylim, ...)."""

    axes: Mapping[str, Any]
    lines: Sequence[Line]


def draw_panels(panels: Sequence[Panel], columns: int = 3) -> Any:
    """A figure of panels, row by row; lines of one label have one colour, and a legend stands below them all."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.0 + 4.0 * columns, 0.9 + 3.1 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for place, panel in zip(places, panels, strict=False):
        for line in panel.lines:
            number = labels.index(line.label)
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            if not line.x:
                handle = place.axhline(line.y[0], linestyle="--", color=colour)
            else:
                if line.lower:
                    place.fill_between(line.x, line.lower, line.upper, color=colour, alpha=0.12, linewidth=0)
                (handle,) = place.plot(line.x, line.y, marker=marker, color=colour, markersize=5)
            handles.setdefault(line.label, handle)
        place.set(**panel.axes)
    for place in places[len(panels) :]:
        place.set_axis_off()
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def save_figure(figure: Any, picture: Path) -> None:
    """Write a figure, whole or not at all; the file's ending says the format."""
    image = io.BytesIO()
    figure.savefig(image, format=picture.suffix[1:], dpi=100)
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_file(picture, image.getvalue())
    print(picture)
