"""Ed25519 signatures of bundles: who made it, on top of that nothing was changed.

``bundle.sig`` beside the manifest signs the manifest's bytes, and the manifest carries the hash of every
file. A controller whose ``trusted_keys`` are set loads only bundles that one of those keys has signed.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import MANIFEST, LoadedBundle, load_bundle
from srdp_controller.errors import BundleError, SrdpError
from srdp_controller.files import write_json

SIGNATURE = "bundle.sig"
MAX_SIGNATURE_BYTES = 4096


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise SrdpError("signatures need the cryptography package: pip install 'srdp_controller[sign]'") from None
    return ed25519


def make_key(path: Path) -> str:
    """Write a new private key (readable by its owner only); returns the public key as text.

    Raises:
        SrdpError: the file exists.
    """
    key = _ed25519().Ed25519PrivateKey.generate()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SrdpError(f"{path}: exists already; a key is never overwritten") from None
    except OSError as error:
        raise SrdpError(f"{path}: {error.strerror}") from None
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(key.private_bytes_raw()) + b"\n")
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign_bundle(folder: Path, key_path: Path) -> str:
    """Sign a bundle that is whole; returns the public key as text.

    Raises:
        SrdpError: the key is not readable, or the bundle is damaged.
    """
    bundle = load_bundle(folder)
    bundle.read_all()
    try:
        key = _ed25519().Ed25519PrivateKey.from_private_bytes(base64.b64decode(key_path.read_bytes(), validate=False))
    except OSError as error:
        raise SrdpError(f"{key_path}: {error.strerror}") from None
    except ValueError:
        raise SrdpError(f"{key_path}: not a key of `srdp keygen`") from None
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    signature = base64.b64encode(key.sign(bundle.raw)).decode()
    write_json(folder / SIGNATURE, {"key": public, "signature": signature})
    return public


def require_signature(bundle: LoadedBundle, trusted: list[str]) -> str:
    """Check that one of the trusted public keys signed the manifest that was loaded; returns that key.

    Raises:
        BundleError: no signature, by another key, or not of this manifest.
        SrdpError: a trusted key is none.
    """
    ed25519 = _ed25519()
    path = bundle.folder / SIGNATURE
    try:
        if path.stat().st_size > MAX_SIGNATURE_BYTES:
            raise BundleError(f"{path}: larger than {MAX_SIGNATURE_BYTES} bytes; not a signature")
        content = json.loads(path.read_bytes())
        key, signature = str(content["key"]), base64.b64decode(content["signature"], validate=True)
    except FileNotFoundError:
        raise BundleError(
            f"{path}: the bundle is not signed, and trusted_keys asks for it; `srdp sign` signs"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not a signature ({error})") from None
    if key not in trusted:
        raise BundleError(f"{path}: signed by {key}, which is not among trusted_keys")
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
    except ValueError:
        raise SrdpError(f"trusted_keys: {key!r} is not an ed25519 public key (`srdp keygen` prints one)") from None
    try:
        public.verify(signature, bundle.raw)
    except Exception:  # cryptography's InvalidSignature
        raise BundleError(
            f"{path}: the signature does not fit {MANIFEST}: the bundle was changed after it was signed"
        ) from None
    return key
