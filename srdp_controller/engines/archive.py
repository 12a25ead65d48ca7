"""Bundles as one file: packing, and installing what came from elsewhere without trusting it.

An archive is refused whole: for a path that leads out, a link, a name twice, more or larger files than a
bundle has, or content that the manifest does not vouch for. Nothing is written outside a folder beside the
target, which takes the target's place by renaming when everything has been verified.
"""

from __future__ import annotations

import io
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from srdp_controller.engines.bundle import MANIFEST, MAX_FILE_BYTES, LoadedBundle, load_bundle
from srdp_controller.engines.signature import SIGNATURE, require_signature
from srdp_controller.errors import BundleError, SrdpError
from srdp_controller.files import write_file

MAX_FILES = 64
MAX_TOTAL_BYTES = 512 * 2**20  # of an archive, and of what it unpacks to
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def pack_bundle(folder: Path, archive: Path) -> Path:
    """Write a verified bundle as ``.zip``; returns the archive.

    Raises:
        SrdpError: the bundle is damaged, or the name says another format.
    """
    _require_zip(archive)
    bundle = load_bundle(folder)
    files = bundle.read_all()
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


def _name_inside(name: str) -> str | None:
    """A file's name inside the bundle, without the one folder that an archive may be wrapped in; None: it has none."""
    path = PurePosixPath(name)
    parts = path.parts[1:] if len(path.parts) == 2 else path.parts
    inside = not path.is_absolute() and ".." not in path.parts and len(parts) == 1 and NAME.fullmatch(parts[0])
    return parts[0] if inside else None


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, none larger than a bundle's may be."""
    seen: set[str] = set()
    total = 0
    try:
        with zipfile.ZipFile(archive) as source:
            for info in source.infolist():
                if info.is_dir():
                    continue
                entry = f"{archive}: entry {info.filename[:200]!r}"
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise BundleError(f"{entry} is a link; nothing was installed")
                name = _name_inside(info.filename)
                if name is None:
                    raise BundleError(f"{entry} is no name of a bundle's file; nothing was installed")
                if name.lower() in seen:
                    raise BundleError(f"{entry} is there twice; nothing was installed")
                seen.add(name.lower())
                if len(seen) > MAX_FILES:
                    raise BundleError(f"{archive}: more than {MAX_FILES} files; not a bundle")
                with source.open(info) as file:
                    data = file.read(MAX_FILE_BYTES + 1)
                total += len(data)
                if len(data) > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
                    raise BundleError(f"{archive}: unpacks to more than a bundle may hold; nothing was installed")
                yield name, data
    except SrdpError:
        raise
    except Exception as error:  # zipfile, zlib, bz2 and lzma raise types of their own
        raise BundleError(f"{archive}: damaged archive ({type(error).__name__}: {error}); copy it again") from None


def _verify(staging: Path, archive: Path, trusted: list[str]) -> None:
    """Check everything that the manifest says of the unpacked files, and that there are no others."""
    bundle = load_bundle(staging)
    known = {*bundle.read_all(), SIGNATURE}
    bundle.calibration()
    extra = sorted({path.name for path in staging.iterdir()} - known)
    if extra:
        raise BundleError(f"{archive}: {extra[0]!r} is not named by {MANIFEST}; nothing was installed")
    if trusted:
        require_signature(bundle, trusted)


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
        if archive.stat().st_size > MAX_TOTAL_BYTES:
            raise BundleError(f"{archive}: larger than {MAX_TOTAL_BYTES} bytes; not a bundle")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name, data in _files(archive):
            write_file(staging / name, data)
        _verify(staging, archive, trusted or [])
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
