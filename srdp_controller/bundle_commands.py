"""Commands on bundles: what is in one, whether its engines compute it, and its way to a robot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from srdp_controller.engines.archive import install_bundle, pack_bundle
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.cuda import Cuda
from srdp_controller.engines.engine_cache import cache_folder, delete_outdated, store
from srdp_controller.engines.providers import EngineOptions
from srdp_controller.engines.signature import make_key, sign_bundle
from srdp_controller.engines.tensorrt_build import build, key_of
from srdp_controller.errors import EngineError, missing_extra
from srdp_controller.progress import ProgressPrinter

Place = Annotated[Path, tyro.conf.Positional]
Precision = Literal["fp32", "fp16"]
Flavour = Literal["tensorrt", "tensorrt_rtx"]


def inspect(bundle: Place) -> dict[str, Any]:
    """Show what a bundle holds.

    Args:
        bundle: bundle folder, e.g. models/pushing
    """
    loaded = load_bundle(bundle)
    spec = loaded.spec
    print(f"SHA-256 {loaded.identity} (spec, graphs, calibration; not the provenance)")
    print(f"task {spec.task}, control rate {spec.control_rate_hz} Hz, horizon {spec.horizon}")
    for component in spec.observation:
        source = component.source
        origin = getattr(source, "topic", source.kind)
        limits = f"{component.lower} .. {component.upper}"
        print(f"  observation[{component.index}] {component.name} [{component.unit}] {limits}  <- {origin}")
    for group in spec.action_groups:
        print(f"  {group.name} ({group.kind}, on hold {group.on_hold}) -> {group.output.topic} {group.output.type}")
        for action in group.components:
            limits = f"{action.lower} .. {action.upper}"
            print(f"    action[{action.index}] {action.name} [{action.unit}] {limits}  -> {action.field}")
    calibration = loaded.calibration()
    for name, entry in loaded.content.policies.items():
        size = len(loaded.read(entry))
        thresholds = calibration.policies.get(name)
        text = f", thresholds {thresholds.thresholds}" if thresholds else ""
        print(f"  {name}: {entry.steps} steps, {size / 1e6:.2f} MB, SHA-256 {entry.sha256[:12]}{text}")
    measured = loaded.content.latency_budget
    print(measured.text if measured else f"latency budget: not measured; srdp eval budget {bundle} --store")
    for name, choice in loaded.content.candidates.items():
        print(f"{name} samples {choice.text}")
    return {"seed": None, "bundle": loaded.content.model_dump(mode="json"), "bundle_sha256": loaded.identity}


def verify(
    bundle: Place,
    provider: list[Literal["cpu", "cuda", "tensorrt", "tensorrt_rtx"]] | None = None,
    precision: Precision = "fp32",
    cache: str = "",
) -> dict[str, Any]:
    """Check a bundle's hashes, and its engines against a reference.

    Args:
        bundle: bundle folder, e.g. models/pushing
        provider: providers that must work; default: those that can be used here
        precision: of TensorRT engines
        cache: folder of built TensorRT engines (default: .engines in the bundle's folder)
    """
    from srdp_controller.offline.export.verify import verify_bundle

    others: dict[str, Any] = {}
    try:
        from srdp_controller.benchmarks.torch_engine import TorchEngine
    except ModuleNotFoundError:
        print("PyTorch is not installed here: it is left out")
    else:
        others["torch_eager"] = TorchEngine
    wanted = None if provider is None else [str(name) for name in provider]
    result = verify_bundle(bundle, providers=wanted, options=EngineOptions(cache, precision), others=others)
    failed = False
    for name, engines in result["policies"].items():
        for engine, entry in engines.items():
            failed |= not entry["passed"]
            print(
                f"{name:<12} {engine:<12} max abs error {entry['max_abs_error']:.2e} "
                f"(tolerance {entry['tolerance']:.0e}) {'ok' if entry['passed'] else 'FAILED'}"
            )
    for left_out, reason in result["left_out"].items():
        print(f"{left_out} is left out: {reason}")
    return {"seed": 0, **result, "failed": failed}


def build_engine(
    bundle: Place = Path("models/pushing"),
    flavour: Flavour = "tensorrt",
    compute_capability: list[str] | None = None,
    precision: list[Precision] | None = None,
    policy: list[str] | None = None,
    cache: str = "",
) -> dict[str, Any]:
    """Build TensorRT engines of a bundle's policies.

    Args:
        bundle: bundle folder
        flavour: tensorrt builds for the GPU in this machine, tensorrt_rtx for any
        compute_capability: GPUs to build for, e.g. 8.6 8.9 12.0 (tensorrt_rtx needs no GPU for that); default: here's
        precision: default: fp32
        policy: default: all
        cache: default: .engines in the bundle's folder
    """
    loaded = load_bundle(bundle)
    folder = cache_folder(loaded, cache)
    policies = policy or list(loaded.content.policies)
    capabilities = compute_capability or [_own_capability()]
    jobs = [(name, target, kind) for target in capabilities for kind in precision or ["fp32"] for name in policies]
    report, engines = ProgressPrinter(), []
    for done, (name, capability, kind) in enumerate(jobs):
        entry = loaded.policy(name)
        graph = loaded.read(entry)
        if kind != "fp32":
            try:
                from srdp_controller.offline.export.precision import convert
            except ModuleNotFoundError as error:
                raise missing_extra("sim", error) from None
            graph = convert(graph, kind)
        target = capability if compute_capability else ""
        built = build(graph, flavour, target, str(loaded.folder / entry.file))
        key = key_of(loaded, name, flavour, capability, kind)
        path = store(folder, key, built.plan, {"build_s": built.seconds})
        engines.append({**asdict(key), "file": path.name, "bytes": len(built.plan), "build_s": built.seconds})
        report("build", done + 1, len(jobs), f"{name} {kind} for {capability}: {built.seconds:.2f} s")
    # another folder may hold the engines of other bundles too
    for path in [] if cache else delete_outdated(folder, loaded):
        print(f"deleted {path.name}, whose graph the bundle no longer has")
    print(f"{len(engines)} engines in {folder}")
    return {"seed": None, "cache": str(folder), "engines": engines}


def _own_capability() -> str:
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


def pack(bundle: Place, archive: Place) -> dict[str, Any]:
    """Write a bundle as one file.

    Args:
        bundle: bundle folder, e.g. models/pushing
        archive: a name that ends in .zip
    """
    path = pack_bundle(bundle, archive)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return {"seed": None, "archive": str(path), "bytes": path.stat().st_size}


def install(
    archive: Place,
    to: Path = Path("models/pushing"),
    trust: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY")] = [],  # noqa: B006
) -> dict[str, Any]:
    """Verify a packed bundle and put it in place, whole or not at all.

    Args:
        archive: .zip of a bundle
        to: the bundle's folder (replaced)
        trust: public key that must have signed it; may be given again
    """
    loaded = install_bundle(archive, to, trust)
    print(f"{to}: task {loaded.content.task}, SHA-256 {loaded.identity} (spec, graphs, calibration)")
    return {"seed": None, "bundle": str(to), "bundle_sha256": loaded.identity}


def keygen(key: Place) -> dict[str, Any]:
    """Make a key to sign bundles with.

    Args:
        key: file of the private key (must not exist)
    """
    public = make_key(key)
    print(f"private key in {key}; the public key, for trusted_keys and --trust:\n{public}")
    return {"seed": None, "public_key": public}


def sign(bundle: Place, key: Path) -> dict[str, Any]:
    """Sign a bundle.

    Args:
        bundle: bundle folder
        key: file of the private key
    """
    public = sign_bundle(bundle, key)
    print(f"{bundle} is signed by {public}")
    return {"seed": None, "public_key": public}
