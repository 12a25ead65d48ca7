"""MCAP files: finding them, opening one, decoding its messages. No ROS: a bag brings their definitions."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from srdp_controller.errors import DatasetError, SrdpError


def bag_files(path: Path) -> list[Path]:
    """The MCAP files of a bag, of a folder of bags, or the one that was named; in the order of their names.

    Raises:
        DatasetError: there is none; the message says how to get there from what there is.
    """
    if not path.exists():
        raise DatasetError(f"data.dataset {path}: no such file or folder; expected an MCAP file or a folder of them")
    files = [path] if path.is_file() else sorted(path.rglob("*.mcap"))
    if files and all(file.suffix == ".mcap" for file in files):
        return files
    others = files or sorted(path.rglob("*"))
    for suffix, remedy in (
        (".db3", "it is a SQLite bag: `ros2 bag convert` it to the storage mcap"),
        (".zstd", "it is compressed as a whole: record with --compression-mode message, or unzstd the file"),
        (".bag", "it is a ROS 1 bag: `rosbags-convert` (of the package rosbags) makes an MCAP bag of it"),
    ):
        if any(file.suffix == suffix for file in others):
            raise DatasetError(f"data.dataset {path}: {remedy}")
    raise DatasetError(f"data.dataset {path}: no MCAP file (*.mcap) in it")


def open_bag(path: Path) -> Any:
    """An MCAP reader and the file that it reads.

    Raises:
        DatasetError: no MCAP file, or one that ends early.
    """
    try:
        from mcap.exceptions import McapError
        from mcap.reader import make_reader
    except ModuleNotFoundError:
        raise DatasetError("bags are read with mcap: pip install 'srdp_controller[record]'") from None
    try:
        file = path.open("rb")
        reader = make_reader(file)
        summary = reader.get_summary()
    except (OSError, McapError, ValueError, EOFError, struct.error) as error:
        if path.stat().st_size == 0:
            raise DatasetError(f"{path}: an empty file; was the recording killed at once?") from None
        raise DatasetError(
            f"{path}: no readable MCAP file, or one that was cut off ({str(error) or type(error).__name__}); "
            "`mcap recover` (of the package mcap-cli) repairs what can be repaired"
        ) from None
    if summary is None or not summary.channels:
        raise DatasetError(f"{path}: no index, or nothing in it (was the recording killed?); `mcap recover` repairs it")
    return file, reader, summary


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """In it whatever a damaged file leads to is one error.

    Raises:
        DatasetError: a chunk is damaged, or bytes are no message.
    """
    try:
        yield
    except SrdpError:
        raise
    except Exception as error:  # the libraries raise types of their own
        raise DatasetError(f"{path}: damaged ({type(error).__name__}: {error}); `mcap recover`?") from None


def ros_name(schema_name: str) -> str:
    """``geometry_msgs/msg/Twist`` of that or of ``geometry_msgs/Twist``."""
    package, *_, name = schema_name.split("/")
    return f"{package}/msg/{name}"


def is_stamped(schema: Any) -> bool:
    """Whether a message begins with a header, by its definition."""
    lines = (line.split("#")[0].split() for line in schema.data.decode(errors="replace").split("===")[0].splitlines())
    return any(line and re.fullmatch(r"std_msgs/(msg/)?Header", line[0]) and line[-1] == "header" for line in lines)


def decoders(path: Path) -> Callable[[Any, Any], Callable[[bytes], Any]]:
    """What decodes the messages of a channel.

    Raises (when called):
        DatasetError: its messages are encoded otherwise than ROS 2 does.
    """
    from mcap_ros2.decoder import DecoderFactory

    factory = DecoderFactory()

    def decoder(schema: Any, channel: Any) -> Callable[[bytes], Any]:
        try:
            found = factory.decoder_for(channel.message_encoding, schema)
        except Exception as error:  # the parser of definitions raises types of its own
            raise DatasetError(f"{path}: topic {channel.topic}: its definition cannot be read ({error})") from None
        if found is None:
            kind = f"{channel.message_encoding} with {schema.encoding if schema else 'no'} definitions"
            raise DatasetError(f"{path}: topic {channel.topic} holds {kind}; expected cdr with ros2msg definitions")
        return found  # type: ignore[no-any-return]

    return decoder
