"""Writing what was measured of a bundle into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle, load_bundle, write_bundle
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
    """Put fields into a bundle's manifest, beside what others have put there since it was loaded.

    Raises:
        SrdpError: it is another bundle meanwhile, or signed.
    """
    now = load_bundle(folder)
    if now.identity != bundle.identity:
        raise SrdpError(f"{folder} was rebuilt while its policies were measured: nothing is stored, measure it again")
    require_unsigned(folder)
    for name, value in measured.items():
        if isinstance(value, dict):
            measured[name] = {**getattr(now.content, name), **value}
    write_bundle(folder, now.content.model_copy(update=measured))
