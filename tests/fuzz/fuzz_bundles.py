"""Corrupts bundles in every way an attacker or a bad disk might, and counts what is refused.

``python tests/fuzz/fuzz_bundles.py BUNDLE --json PATH``; exit status 1 where one was not refused by name.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srdp_controller.engines.archive import install_bundle, pack_bundle
from srdp_controller.engines.bundle import MANIFEST, _canonical, load_bundle, sha256
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_json
from srdp_controller.progress import ProgressPrinter, Report
from srdp_controller.provenance import describe_run

Corrupt = Callable[[dict[str, bytes], random.Random], None]
EVIL_NAMES = (
    "../escaped.json",
    "../../escaped.json",
    "/tmp/escaped.json",
    "a/../../escaped.json",
    "..\\escaped.json",
    "teacher.onnx/x",
    "C:\\escaped.json",
    "con\x00.json",
    "x" * 5000,
)
HUGE = (2**31, 2**63 - 1, 10**30, -1)


def _pick(files: dict[str, bytes], rng: random.Random) -> str:
    return rng.choice(sorted(files))


def flip_bits(files: dict[str, bytes], rng: random.Random) -> None:
    """One to eight bits of one file."""
    name = _pick(files, rng)
    data = bytearray(files[name])
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if bytes(data) == files[name]:
        data[0] ^= 1
    files[name] = bytes(data)


def truncate(files: dict[str, bytes], rng: random.Random) -> None:
    """One file loses its end."""
    name = _pick(files, rng)
    files[name] = files[name][: rng.randrange(len(files[name]) - 1)]


def extend(files: dict[str, bytes], rng: random.Random) -> None:
    """One file gains an end; a manifest's may not be white space, which changes nothing."""
    name = _pick(files, rng)
    files[name] += rng.randbytes(rng.randint(1, 200)) + b"x"


def swap_files(files: dict[str, bytes], rng: random.Random) -> None:
    """Two files change names."""
    one, other = rng.sample(sorted(files), 2)
    files[one], files[other] = files[other], files[one]


def drop(files: dict[str, bytes], rng: random.Random) -> None:
    """One file is missing."""
    del files[_pick(files, rng)]


def replace_manifest(files: dict[str, bytes], rng: random.Random) -> None:
    """The manifest is something else: other JSON, deep nesting, random bytes, nothing."""
    choices = [b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 50_000, rng.randbytes(1000), b"\xff\xfe" * 50]
    files[MANIFEST] = rng.choice(choices)


def edit_manifest(files: dict[str, bytes], rng: random.Random) -> None:
    """A field of the manifest has an evil value, and the content hash is made to fit."""
    content = json.loads(files[MANIFEST])
    content.pop("content_sha256")
    policy = content["policies"][rng.choice(sorted(content["policies"]))]
    edits: list[Callable[[], Any]] = [
        lambda: policy.update(file=rng.choice(EVIL_NAMES)),
        lambda: policy.update(sha256=rng.choice(["", "0" * 64, "g" * 64, 7])),
        lambda: policy.update(steps=rng.choice([*[-n for n in HUGE if n > 0], 0, "four", None])),
        lambda: policy.update(noise_shape=rng.choice([[], [1, 2], "x", [1, 8, "y"]])),
        lambda: content.update(schema_version=rng.choice([0, 2, *HUGE, "1", None])),
        lambda: content.update(policies={}),
        lambda: content.update(spec=rng.choice([None, {}, [], "spec"])),
        lambda: content["spec"].update(horizon=rng.choice([0, -1, "eight", None])),
        lambda: content["spec"].update(control_rate_hz=rng.choice([0, -20, "fast", None])),
        lambda: content["spec"]["observation"][0].update(index=rng.choice([7, 99, "one"])),
        lambda: content["calibration"].update(file=rng.choice(EVIL_NAMES)),
        lambda: content.update(surprise=True),
    ]
    rng.choice(edits)()
    content["content_sha256"] = sha256(_canonical(content))
    files[MANIFEST] = json.dumps(content).encode()


CORRUPTIONS: tuple[Corrupt, ...] = (
    flip_bits,
    truncate,
    extend,
    swap_files,
    drop,
    replace_manifest,
    edit_manifest,
)


def corrupt_archive(archive: bytes, rng: random.Random) -> bytes:
    """The archive itself is damaged, or holds evil names or a bomb."""
    kind = rng.randrange(4)
    if kind == 0:
        return archive[: rng.randrange(len(archive) - 30)]
    if kind == 1:  # in the local data, where the checksum finds it
        data = bytearray(archive)
        for _ in range(8):
            data[rng.randrange(len(data) // 2)] ^= 1 << rng.randrange(8)
        return bytes(data)
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        if kind == 2:
            file.writestr(zipfile.ZipInfo(rng.choice(EVIL_NAMES)), b"escaped")
        else:
            with file.open("bomb.onnx", "w", force_zip64=True) as bomb:
                for _ in range(260):
                    bomb.write(bytes(2**20))
    return buffer.getvalue()


def _attempt(folder: Path, source: dict[str, bytes], packed: bytes, rng: random.Random) -> tuple[str, str]:
    """Corrupt one bundle and try it; returns (kind, message) where an accepted one has no message."""
    if rng.random() < 0.25:
        archive = folder / "evil.zip"
        archive.write_bytes(corrupt_archive(packed, rng))
        try:
            install_bundle(archive, folder / "installed")
        except SrdpError as error:
            return "archive", str(error)
        return "archive", ""
    corrupt = rng.choice(CORRUPTIONS)
    files = dict(source)
    corrupt(files, rng)
    place = folder / "bundle"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    try:
        bundle = load_bundle(place)
        bundle.read_all()
        bundle.calibration()
    except SrdpError as error:
        return corrupt.__name__, str(error)
    return corrupt.__name__, ""


def fuzz(bundle: Path, folder: Path, count: int, rng: random.Random, report: Report) -> dict[str, Any]:
    """Try ``count`` corruptions below ``folder``; counts of what happened."""
    loaded = load_bundle(bundle)
    source = loaded.read_all() | {MANIFEST: loaded.raw}
    inside = folder / "in" / "side"
    inside.mkdir(parents=True)
    packed = pack_bundle(bundle, inside / "good.zip").read_bytes()
    result: dict[str, Any] = dict.fromkeys(("refused", "accepted", "crashed", "unnamed", "escaped"), 0)
    kinds: dict[str, int] = {}
    slowest, oddities = 0.0, []
    for number in range(count):
        began = time.monotonic()
        try:
            kind, message = _attempt(inside, source, packed, rng)
        except Exception as error:  # whatever comes out here is what this looks for
            result["crashed"] += 1
            oddities.append(f"{type(error).__name__}: {error}"[:200])
            continue
        slowest = max(slowest, time.monotonic() - began)
        kinds[kind] = kinds.get(kind, 0) + 1
        if message:
            result["refused"] += 1
            if str(inside) not in message:
                result["unnamed"] += 1
                oddities.append(message[:200])
        else:
            result["accepted"] += 1
            oddities.append(f"{kind} was accepted")
        outside = {path.name for path in folder.iterdir()} | {path.name for path in (folder / "in").iterdir()}
        if outside - {"in", "side"} or (inside / "installed").exists():
            result["escaped"] += 1
            oddities.append(f"{kind} left {sorted(outside)}")
        if number % 50 == 49:
            report("fuzz", number + 1, count, f"{result['refused']} refused")
    return {**result, "count": count, "kinds": kinds, "slowest_s": slowest, "oddities": oddities[:20]}


def main() -> int:
    """Parse, try, write; the exit status."""
    parser = argparse.ArgumentParser(description="Corrupt a bundle in every way, and count what is refused.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="how many corruptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the result is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = fuzz(options.bundle, Path(name), options.count, random.Random(options.seed), ProgressPrinter())
    # of the whole process, the interpreter and its libraries included
    result["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result, indent=1))
    if options.json:
        write_json(options.json, {**describe_run("fuzz_bundles", options.seed), **result})
    return int(result["refused"] != options.count or result["unnamed"] > 0 or result["escaped"] > 0)


if __name__ == "__main__":
    sys.exit(main())
