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
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from srdp_controller.engines.bundle import MANIFEST, MAX_FILE_BYTES, LoadedBundle, load_bundle
from srdp_controller.engines.signature import SIGNATURE, require_signature
from srdp_controller.errors import BundleError, SrdpError

MAX_FILES = 64
MAX_TOTAL_BYTES = 512 * 2**20
MAX_ARCHIVE_BYTES = 512 * 2**20
COPY_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise SrdpError(".tar.zst needs the zstandard package: pip install 'srdp_controller[sign]'") from None
    return zstandard


def pack_bundle(folder: Path, archive: Path) -> Path:
    """Write a verified bundle as ``.zip`` or ``.tar.zst``; returns the archive.

    Raises:
        SrdpError: the bundle is damaged, or the name says another format.
    """
    bundle = load_bundle(folder)
    entries = [*bundle.content.policies.values(), bundle.content.calibration]
    files = {entry.file: bundle.read(entry) for entry in entries} | {MANIFEST: bundle.raw}
    if (folder / SIGNATURE).exists():
        files[SIGNATURE] = (folder / SIGNATURE).read_bytes()
    temporary = archive.with_name(archive.name + ".tmp")
    if archive.suffix == ".zip":
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target:
            for name, data in sorted(files.items()):
                target.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    elif archive.name.endswith(".tar.zst"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in sorted(files.items()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        temporary.write_bytes(_zstandard().ZstdCompressor(level=10).compress(buffer.getvalue()))
    else:
        raise SrdpError(f"{archive}: expected a name that ends in .zip or .tar.zst")
    temporary.replace(archive)
    return archive


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


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
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


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with (
        archive.open("rb") as raw,
        _zstandard().ZstdDecompressor(max_window_size=2**27).stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as source,
    ):
        for info in source:
            if info.isdir():
                continue
            if not info.isreg():
                raise BundleError(f"{archive}: entry {info.name[:200]!r} is no ordinary file; nothing was installed")
            file = source.extractfile(info)
            assert file is not None
            yield info.name, file


def _unpack(archive: Path, staging: Path) -> None:
    seen: set[str] = set()
    total = 0
    entries = _zip_entries(archive) if archive.suffix == ".zip" else _tar_entries(archive)
    for name, source in entries:
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
    if not (archive.suffix == ".zip" or archive.name.endswith(".tar.zst")):
        raise SrdpError(f"{archive}: expected a .zip or .tar.zst of a bundle")
    staging = target.with_name(target.name + ".installing")
    old = target.with_name(target.name + ".old")
    try:
        if archive.stat().st_size > MAX_ARCHIVE_BYTES:
            raise BundleError(f"{archive}: larger than {MAX_ARCHIVE_BYTES} bytes; not a bundle")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            _unpack(archive, staging)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, NotImplementedError) as error:
            raise BundleError(f"{archive}: damaged archive ({error}); copy it again") from None
        except SrdpError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # zlib, lzma and zstandard raise types of their own
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
