"""``srdp pack``, ``install``, ``keygen``, ``sign`` and ``build-engine``: bundles on their way to a robot."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srdp_controller.errors import missing_extra


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.archive import pack_bundle

    path = pack_bundle(Path(arguments.bundle), Path(arguments.archive))
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return {"seed": None, "archive": str(path), "bytes": path.stat().st_size}


def _install(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.archive import install_bundle

    bundle = install_bundle(Path(arguments.archive), Path(arguments.to), arguments.trust or [])
    identity = bundle.identity
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


def _build_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.bundle import load_bundle
    from srdp_controller.engines.engine_cache import cache_folder, store, sweep
    from srdp_controller.engines.tensorrt_build import build, key_of
    from srdp_controller.progress import ProgressPrinter

    bundle = load_bundle(arguments.bundle)
    folder = cache_folder(bundle, arguments.cache)
    flavour, precisions = arguments.flavour, arguments.precision or ["fp32"]
    policies = arguments.policy or list(bundle.content.policies)
    capabilities = arguments.compute_capability or [_own_capability()]
    jobs = [(name, target, kind) for target in capabilities for kind in precisions for name in policies]
    report, engines = ProgressPrinter(), []
    for done, (name, capability, precision) in enumerate(jobs):
        entry = bundle.policy(name)
        graph = bundle.read(entry)
        if precision != "fp32":
            try:
                from srdp_controller.offline.export.precision import convert
            except ModuleNotFoundError as error:
                raise missing_extra("sim", error) from None
            graph = convert(graph, precision)
        target = capability if arguments.compute_capability else ""
        built = build(graph, flavour, target, str(bundle.folder / entry.file))
        key = key_of(bundle, name, flavour, capability, precision)
        path = store(folder, key, built.plan, {"build_s": built.seconds})
        facts = {"file": path.name, "bytes": len(built.plan), "build_s": built.seconds}
        engines.append({**asdict(key), **facts})
        report("build", done + 1, len(jobs), f"{name} {precision} for {capability}: {built.seconds:.2f} s")
    # another folder may hold the engines of other bundles too
    for path in [] if arguments.cache else sweep(folder, bundle):
        print(f"deleted {path.name}, whose graph the bundle no longer has")
    print(f"{len(engines)} engines in {folder}")
    return {"seed": None, "cache": str(folder), "engines": engines}


def _own_capability() -> str:
    from srdp_controller.engines.cuda import Cuda
    from srdp_controller.errors import EngineError

    try:
        cuda = Cuda()
    except EngineError as error:
        raise EngineError(
            f"{error} To build for another GPU: --compute-capability, e.g. 8.7 for a Jetson Orin"
        ) from None
    try:
        return cuda.compute_capability()
    finally:
        cuda.close()


def add_commands(commands: Any) -> None:
    """Add the five commands to the parser's."""
    engine = commands.add_parser("build-engine", help="build TensorRT engines of a bundle's policies")
    engine.add_argument("bundle", nargs="?", default="models/pushing", help="bundle folder")
    engine.add_argument("--flavour", choices=("tensorrt", "tensorrt_rtx"), default="tensorrt")
    engine.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="C",
        help="GPUs to build for, e.g. 8.6 8.9 12.0 (tensorrt_rtx needs no GPU for that); default: this machine's",
    )
    engine.add_argument("--precision", nargs="+", choices=("fp32", "fp16"), help="default: fp32")
    engine.add_argument("--policy", nargs="+", metavar="NAME", help="default: all")
    engine.add_argument("--cache", default="", metavar="FOLDER", help="default: .engines in the bundle's folder")
    engine.set_defaults(run=_build_engine)
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
