"""Records the controller's telemetry ring as MCAP, in a process of its own.

Readable by Foxglove, PlotJuggler and `ros2 bag`: every action group's commands on the group's topic (TwistStamped,
or Float64MultiArray with the components in order), ``/srdp_controller/mode`` (String, on change) and
``/srdp_controller/cycle``, whose fields are the telemetry's columns by name: times, every command and every
observation. It imports no ROS, shares no lock with the loop, and goes on to the last row when the controller was
killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from srdp_controller.control.telemetry import (
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

POLL_S = 0.2
CHUNK_BYTES = 16 * 1024  # small: what a crash of the recorder itself can lose
HEADER = "std_msgs/Header header\n"
TIME_TYPE = "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
HEADER_TYPE = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
VECTOR_TYPE = "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
TWIST_TYPE = "MSG: geometry_msgs/Twist\ngeometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular\n"
DIMENSION_TYPE = "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n"
LAYOUT_TYPE = "MSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset\n"
BAR = "=" * 80 + "\n"
TWIST, ARRAY = "geometry_msgs/msg/TwistStamped", "std_msgs/msg/Float64MultiArray"
DEFINITIONS = {
    TWIST: BAR.join((f"{HEADER}geometry_msgs/Twist twist\n", HEADER_TYPE, TIME_TYPE, TWIST_TYPE, VECTOR_TYPE)),
    ARRAY: BAR.join(("std_msgs/MultiArrayLayout layout\nfloat64[] data\n", LAYOUT_TYPE, DIMENSION_TYPE)),
}


def field_name(column: str) -> str:
    """A column's name as a ROS 2 message field."""
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9_]", "_", column.lower())).strip("_")


class GroupWriter:
    """An action group's command of a row, as a message."""

    def __init__(self, output: dict[str, Any], columns: list[str]) -> None:
        self.topic = output["topic"]
        self.type = TWIST if output["type"] == TWIST else ARRAY
        self._frame = output["frame"]
        self._components: dict[str, str] = output["components"]
        self._places = [columns.index(name) for name in self._components]

    def message(self, row: list[float], stamp: dict[str, int]) -> dict[str, Any]:
        """The message, for the MCAP writer."""
        values = [row[place] for place in self._places]
        if self.type == ARRAY:
            labels = [{"label": name, "size": 1, "stride": 1} for name in self._components]
            return {"layout": {"dim": labels, "data_offset": 0}, "data": values}
        twist = {part: dict.fromkeys("xyz", 0.0) for part in ("linear", "angular")}
        for field, value in zip(self._components.values(), values, strict=True):
            _, part, axis = field.split(".")
            twist[part][axis] = value
        return {"header": {"stamp": stamp, "frame_id": self._frame}, "twist": twist}


class McapFile:
    """The topics of a recording."""

    def __init__(self, path: Path, columns: list[str], outputs: list[dict[str, Any]]) -> None:
        from mcap_ros2.writer import CompressionType, Writer

        self._file = path.open("wb")
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        self._fields = [field_name(column) for column in columns]
        cycle = BAR.join((HEADER + "".join(f"float64 {name}\n" for name in self._fields), HEADER_TYPE, TIME_TYPE))
        register = self._writer.register_msgdef
        self._groups = [
            (group, register(group.type, DEFINITIONS[group.type]))
            for group in (GroupWriter(output, columns) for output in outputs)
        ]
        self._cycle = register("srdp_controller/msg/Cycle", cycle)
        self._string = register("std_msgs/msg/String", "string data\n")
        self._mode = -1.0
        self._time_at, self._mode_at = columns.index("time_s"), columns.index("mode")

    def write(self, row: list[float], epoch_ns: int) -> None:
        """One cycle."""
        stamp_ns = epoch_ns + round(row[self._time_at] * 1e9)
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = {"sec": seconds, "nanosec": nanoseconds}
        for group, schema in self._groups:
            self._put(group.topic, schema, group.message(row, stamp), stamp_ns)
        fields = dict(zip(self._fields, row, strict=True))
        self._put(
            "/srdp_controller/cycle", self._cycle, {"header": {"stamp": stamp, "frame_id": ""}, **fields}, stamp_ns
        )
        if row[self._mode_at] != self._mode:
            self._mode = row[self._mode_at]
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


def record(ring: SharedRing, file: McapFile, path: Path, limit_bytes: int, parent: int) -> None:
    """Follow the ring until the controller closes it or is gone; returns when the file is whole."""
    header, capacity = ring.header, len(ring.rows)
    done, lost, full, over = 0, 0, False, False
    while not over:
        over = bool(header[CLOSED]) or os.getppid() != parent
        newest = int(header[NEXT])
        overwritten = max(0, newest - capacity - done)
        lost += overwritten
        if not full:
            for index in range(done + overwritten, newest):
                file.write(ring.rows[index % capacity].tolist(), int(header[EPOCH_NS]))
            full = file.flush() > limit_bytes
            if full:
                print(f"recorder: {path} reached its limit of {limit_bytes} bytes; recording ends", file=sys.stderr)
        done = newest
        header[RECORDED], header[LOST] = done, lost
        if not over:
            time.sleep(POLL_S)
    file.close(cycles=str(done), lost=str(lost), ended="limit" if full else "end of run")


def main() -> int:
    """Entry point of the recorder's process; its one argument is what ``run_files.recorder_command`` says, as JSON."""
    job = json.loads(sys.argv[1])
    path = Path(job["path"])
    with contextlib.suppress(OSError):  # it may lead a group already
        os.setsid()  # a signal to the controller's group must not end the recording before its last row
    ring = SharedRing(Path(job["ring"]))
    try:
        record(ring, McapFile(path, job["columns"], job["outputs"]), path, job["limit_bytes"], job["parent"])
        ring.header[STATUS] = FINISHED
    except OSError as error:
        print(f"recorder: {path}: {error.strerror or error}; the recording ends here", file=sys.stderr)
        ring.header[STATUS] = FAILED
        return 1
    finally:
        ring.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
