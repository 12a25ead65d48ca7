"""``srdp pack``, ``install``, ``keygen`` and ``sign``: bundles on their way to a robot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.package import pack_bundle

    path = pack_bundle(Path(arguments.bundle), Path(arguments.archive))
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return {"seed": None, "archive": str(path), "bytes": path.stat().st_size}


def _install(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.package import install_bundle

    bundle = install_bundle(Path(arguments.archive), Path(arguments.to), arguments.trust or [])
    identity = bundle.content.identity()
    print(f"{arguments.to}: task {bundle.content.task}, SHA-256 {identity} (spec, graphs, calibration)")
    return {"seed": None, "bundle": arguments.to, "bundle_sha256": identity}


def _keygen(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.signature import make_key

    public = make_key(Path(arguments.key))
    print(f"private key in {arguments.key}; the public key, for trusted_keys and --trust:\n{public}")
    return {"seed": None, "public_key": public}


def _sign(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.signature import sign_bundle

    public = sign_bundle(Path(arguments.bundle), Path(arguments.key))
    print(f"{arguments.bundle} is signed by {public}")
    return {"seed": None, "public_key": public}


def add_commands(commands: Any) -> None:
    """Add the four commands to the parser's."""
    pack = commands.add_parser("pack", help="write a bundle as one file")
    pack.add_argument("bundle", help="bundle folder, e.g. models/pushing")
    pack.add_argument("archive", help="a name that ends in .zip or .tar.zst")
    pack.set_defaults(run=_pack)
    install = commands.add_parser("install", help="verify a packed bundle and put it in place, whole or not at all")
    install.add_argument("archive", help=".zip or .tar.zst")
    install.add_argument("--to", default="models/pushing", metavar="FOLDER", help="the bundle's folder (replaced)")
    install.add_argument("--trust", action="append", metavar="KEY", help="public key that must have signed it")
    install.set_defaults(run=_install)
    keygen = commands.add_parser("keygen", help="make a key to sign bundles with")
    keygen.add_argument("key", help="file of the private key (must not exist)")
    keygen.set_defaults(run=_keygen)
    sign = commands.add_parser("sign", help="sign a bundle")
    sign.add_argument("bundle", help="bundle folder")
    sign.add_argument("--key", required=True, help="file of the private key")
    sign.set_defaults(run=_sign)
