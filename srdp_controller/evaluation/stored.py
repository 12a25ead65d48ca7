"""Writing what was measured of a bundle into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle, write_bundle
from srdp_controller.engines.signature import SIGNATURE
from srdp_controller.errors import SrdpError


def fewest_evaluations(bundle: LoadedBundle) -> str:
    """The name of a bundle's fastest policy."""
    entries = bundle.content.policies
    return min(entries, key=lambda name: entries[name].evaluations)


def require_unsigned(folder: Path) -> None:
    """Refuse, before hours of measuring, a bundle whose signature would be broken.

    Raises:
        SrdpError: it is signed.
    """
    if (folder / SIGNATURE).exists():
        raise SrdpError(f"{folder} is signed, which --store would break: delete {SIGNATURE} and sign it again after")


def store_in(folder: Path, bundle: LoadedBundle, **measured: Any) -> None:
    """Put fields into a bundle's manifest."""
    write_bundle(folder, bundle.content.model_copy(update=measured))
