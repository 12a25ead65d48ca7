"""Loss curves of a run folder, from its JSON lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

from srdp_controller.files import write_file


def plot_losses(folder: Path, picture: Path) -> None:
    """One panel per network, one curve per logged part of its loss."""
    from matplotlib.figure import Figure

    logs = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not logs:
        return
    columns = min(3, len(logs))
    rows = -(-len(logs) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, (name, path) in zip(panels.flat, logs.items(), strict=False):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for part in [key for key in lines[0] if key not in ("step", "loss")]:
            values = [line.get(part, float("nan")) for line in lines]
            panel.plot([line["step"] for line in lines], values, label=part, linewidth=1.0)
        if all(line.get(part, 1.0) > 0 for line in lines for part in line):
            panel.set_yscale("log")
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.legend(fontsize="small")
    for panel in list(panels.flat)[len(logs) :]:
        panel.set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format=picture.suffix[1:], dpi=110)
    write_file(picture, image.getvalue())
