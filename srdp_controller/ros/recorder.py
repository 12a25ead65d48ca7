"""Records the controller's telemetry ring as MCAP, in a process of its own.

Readable by Foxglove, PlotJuggler and `ros2 bag`: ``/srdp_controller/command`` (TwistStamped),
``/srdp_controller/mode`` (String, on change) and ``/srdp_controller/cycle``, whose fields are the
telemetry's columns and the observation's components by name. It imports no ROS, shares no lock with
the loop, and goes on to the last row when the controller was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from srdp_controller.control.telemetry import (
    CAPACITY,
    CLOSED,
    EPOCH_NS,
    FAILED,
    FINISHED,
    LOST,
    MODES,
    NEXT,
    RECORDED,
    STATUS,
    SharedRing,
)
from srdp_controller.errors import SrdpError

POLL_S = 0.2
CHUNK_BYTES = 16 * 1024  # small: what a crash of the recorder itself can lose
HEADER_TEXT = "std_msgs/Header header\n"
TIME = "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
HEADER = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
VECTOR = "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
TWIST = "MSG: geometry_msgs/Twist\ngeometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular\n"
BAR = "=" * 80 + "\n"


def require_mcap() -> None:
    """Say what to install where the MCAP packages are missing.

    Raises:
        SrdpError: they are.
    """
    try:
        import mcap_ros2.writer  # noqa: F401
    except ImportError:
        raise SrdpError("record: the MCAP writer is not installed: pip install 'srdp_controller[record]'") from None


def field_name(column: str) -> str:
    """A column's name as a ROS 2 message field."""
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9_]", "_", column.lower())).strip("_")


class McapFile:
    """The three topics of a recording."""

    def __init__(self, path: Path, columns: list[str], frame: str) -> None:
        from mcap_ros2.writer import CompressionType, Writer

        self._file = path.open("wb")
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        self._fields = [field_name(column) for column in columns]
        self._frame = frame
        twist = f"{HEADER_TEXT}geometry_msgs/Twist twist\n{BAR}{HEADER}{BAR}{TIME}{BAR}{TWIST}{BAR}{VECTOR}"
        cycle = HEADER_TEXT + "".join(f"float64 {name}\n" for name in self._fields) + f"{BAR}{HEADER}{BAR}{TIME}"
        self._twist = self._writer.register_msgdef("geometry_msgs/msg/TwistStamped", twist)
        self._cycle = self._writer.register_msgdef("srdp_controller/msg/Cycle", cycle)
        self._string = self._writer.register_msgdef("std_msgs/msg/String", "string data\n")
        self._mode = -1.0
        self._columns = {column: index for index, column in enumerate(columns)}

    def write(self, row: list[float], epoch_ns: int) -> None:
        """One cycle."""
        columns = self._columns
        stamp_ns = epoch_ns + round(row[columns["time_s"]] * 1e9)
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        header = {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": self._frame}
        linear = {"x": row[columns["command_x"]], "y": row[columns["command_y"]], "z": 0.0}
        twist = {"linear": linear, "angular": {"x": 0.0, "y": 0.0, "z": 0.0}}
        self._put("/srdp_controller/command", self._twist, {"header": header, "twist": twist}, stamp_ns)
        self._put(
            "/srdp_controller/cycle",
            self._cycle,
            {"header": header, **dict(zip(self._fields, row, strict=True))},
            stamp_ns,
        )
        if row[columns["mode"]] != self._mode:
            self._mode = row[columns["mode"]]
            self._put("/srdp_controller/mode", self._string, {"data": MODES[int(self._mode)]}, stamp_ns)

    def _put(self, topic: str, schema: Any, message: dict[str, Any], stamp_ns: int) -> None:
        self._writer.write_message(topic, schema, message, stamp_ns, stamp_ns)

    def flush(self) -> int:
        """Hand what is written to the system; returns the file's size."""
        self._file.flush()
        return self._file.tell()

    def close(self, **metadata: str) -> None:
        """Write index and footer."""
        self._writer.add_metadata("srdp_controller", metadata)
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def record(ring: SharedRing, path: Path, columns: list[str], frame: str, limit_bytes: int, parent: int) -> None:
    """Follow the ring until the controller closes it or is gone; returns when the file is whole."""
    file = McapFile(path, columns, frame)
    header = ring.header
    done, lost, full = 0, 0, False
    while True:
        over = bool(header[CLOSED]) or os.getppid() != parent
        newest = int(header[NEXT])
        capacity = int(header[CAPACITY])
        if newest - done > capacity:
            lost += newest - done - capacity
            done = newest - capacity
        if newest > done and not full:
            epoch = int(header[EPOCH_NS])
            for index in range(done, newest):
                file.write(ring.rows[index % capacity].tolist(), epoch)
        done = newest
        header[RECORDED], header[LOST] = done, lost
        if not full and file.flush() > limit_bytes:
            full = True
            print(f"recorder: {path} reached its limit of {limit_bytes} bytes; recording ends", file=sys.stderr)
        if over:
            break
        time.sleep(POLL_S)
    file.close(cycles=str(done), lost=str(lost), ended="limit" if full else "end of run")


def main() -> int:
    """Entry point of the recorder's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ring", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--columns", required=True, help="JSON list")
    parser.add_argument("--frame", default="")
    parser.add_argument("--limit-bytes", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    with contextlib.suppress(OSError):  # it may lead a group already
        os.setsid()  # a signal to the controller's group must not end the recording before its last row
    ring = SharedRing(arguments.ring)
    try:
        columns = json.loads(arguments.columns)
        record(ring, arguments.path, columns, arguments.frame, arguments.limit_bytes, arguments.parent)
        ring.header[STATUS] = FINISHED
    except OSError as error:
        print(f"recorder: {arguments.path}: {error.strerror or error}; the recording ends here", file=sys.stderr)
        ring.header[STATUS] = FAILED
        return 1
    finally:
        ring.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
