"""Bundles as one file: packing, and installing what came from elsewhere without trusting it.

An archive is refused whole: for a path that leads out, a link, a name twice, more or larger files than a
bundle has, or content that the manifest does not vouch for. Nothing is written outside a folder beside the
target, which takes the target's place by renaming when everything has been verified.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from srdp_controller.engines.bundle import MANIFEST, MAX_FILE_BYTES, LoadedBundle, load_bundle
from srdp_controller.engines.signature import SIGNATURE, require_signature
from srdp_controller.errors import BundleError, SrdpError
from srdp_controller.files import write_file

MAX_FILES = 64
MAX_TOTAL_BYTES = 512 * 2**20
MAX_ARCHIVE_BYTES = 512 * 2**20
COPY_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def pack_bundle(folder: Path, archive: Path) -> Path:
    """Write a verified bundle as ``.zip``; returns the archive.

    Raises:
        SrdpError: the bundle is damaged, or the name says another format.
    """
    _require_zip(archive)
    bundle = load_bundle(folder)
    entries = [*bundle.content.policies.values(), bundle.content.calibration]
    files = {entry.file: bundle.read(entry) for entry in entries} | {MANIFEST: bundle.raw}
    if (folder / SIGNATURE).exists():
        files[SIGNATURE] = (folder / SIGNATURE).read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in sorted(files.items()):
            target.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    try:
        write_file(archive, buffer.getvalue())
    except OSError as error:
        raise SrdpError(f"{archive}: {error.strerror or error}") from None
    return archive


def _require_zip(archive: Path) -> None:
    if archive.suffix != ".zip":
        raise SrdpError(f"{archive}: expected a name that ends in .zip")


def _safe_name(archive: Path, name: str, seen: set[str]) -> str:
    """The file's name inside the bundle, without the one folder that an archive may be wrapped in."""
    path = PurePosixPath(name)
    parts = path.parts[1:] if len(path.parts) == 2 else path.parts
    if path.is_absolute() or "\\" in name or ".." in path.parts or len(parts) != 1 or not NAME.fullmatch(parts[0]):
        raise BundleError(f"{archive}: entry {name[:200]!r} is no name of a bundle's file; nothing was installed")
    if parts[0].lower() in seen:
        raise BundleError(f"{archive}: entry {name[:200]!r} is there twice; nothing was installed")
    seen.add(parts[0].lower())
    if len(seen) > MAX_FILES:
        raise BundleError(f"{archive}: more than {MAX_FILES} files; not a bundle")
    return parts[0]


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BundleError(f"{archive}: entry {info.filename[:200]!r} is a link; nothing was installed")
            if info.flag_bits & 1:
                raise BundleError(f"{archive}: entry {info.filename[:200]!r} is encrypted; nothing was installed")
            with source.open(info) as file:
                yield info.filename, file


def _unpack(archive: Path, staging: Path) -> None:
    seen: set[str] = set()
    total = 0
    for name, source in _entries(archive):
        path = staging / _safe_name(archive, name, seen)
        size = 0
        with path.open("xb") as target:
            while block := source.read(COPY_BYTES):
                size, total = size + len(block), total + len(block)
                if size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
                    raise BundleError(f"{archive}: unpacks to more than a bundle may hold; nothing was installed")
                target.write(block)
            target.flush()
            os.fsync(target.fileno())


def _verified(staging: Path, archive: Path, trusted: list[str]) -> LoadedBundle:
    bundle = load_bundle(staging)
    entries = [*bundle.content.policies.values(), bundle.content.calibration]
    for entry in entries:
        bundle.read(entry)
    bundle.calibration()
    known = {entry.file for entry in entries} | {MANIFEST, SIGNATURE}
    extra = sorted({path.name for path in staging.iterdir()} - known)
    if extra:
        raise BundleError(f"{archive}: {extra[0]!r} is not named by {MANIFEST}; nothing was installed")
    if trusted:
        require_signature(bundle, trusted)
    return bundle


def install_bundle(archive: Path, target: Path, trusted: list[str] | None = None) -> LoadedBundle:
    """Verify an archive and put its bundle in place of ``target``, whole or not at all.

    Raises:
        BundleError: the archive or its content is refused; the message names the file.
        SrdpError: the format is unknown, or the disk does not take it.
    """
    _require_zip(archive)
    staging = target.with_name(target.name + ".installing")
    old = target.with_name(target.name + ".old")
    try:
        if archive.stat().st_size > MAX_ARCHIVE_BYTES:
            raise BundleError(f"{archive}: larger than {MAX_ARCHIVE_BYTES} bytes; not a bundle")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            _unpack(archive, staging)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise BundleError(f"{archive}: damaged archive ({error}); copy it again") from None
        except SrdpError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # zlib and lzma raise types of their own
            raise BundleError(f"{archive}: damaged archive ({type(error).__name__}: {error}); copy it again") from None
        _verified(staging, archive, trusted or [])
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise SrdpError(f"{archive}: {error.strerror or error}; nothing was installed") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_bundle(target)
