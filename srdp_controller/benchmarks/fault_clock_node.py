"""The controller with a system clock that a fault can step: ``srdp bench faults`` writes by how much into a file.

Only what this process reads is stepped, never the machine's clock, and the monotonic clock not at all.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path

OFFSET = struct.Struct("q")  # nanoseconds
VARIABLE = "SRDP_FAULT_CLOCK"


def set_offset(file: Path, offset_ns: int) -> None:
    """Step the clock of the process that reads ``file``."""
    with file.open("r+b" if file.exists() else "wb") as target:
        target.write(OFFSET.pack(offset_ns))


def _install(file: Path) -> None:
    with file.open("rb") as source:
        offset = mmap.mmap(source.fileno(), OFFSET.size, access=mmap.ACCESS_READ)
    real_ns = time.time_ns

    def stepped_ns() -> int:
        return int(real_ns() + OFFSET.unpack_from(offset)[0])

    time.time_ns = stepped_ns
    time.time = lambda: stepped_ns() * 1e-9


if __name__ == "__main__":
    _install(Path(os.environ[VARIABLE]))
    from srdp_controller.ros.controller_node import main

    sys.exit(main())
