"""Where the node meets what it does not control: every exception there becomes one text that names its cause."""

from __future__ import annotations

import traceback
from pathlib import Path

from srdp_controller.errors import SrdpError


def cause(error: BaseException) -> str:
    """One line for the log: an ``SrdpError``'s own text; of any other exception also where it was raised."""
    if isinstance(error, SrdpError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
