"""``srdp bench``: timing of the loop, swaps, faults, a soak, and the ways to run a policy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError, missing_extra
from srdp_controller.progress import ProgressPrinter


def _loop(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.benchmarks.loop import bench_loop
    except ModuleNotFoundError as error:
        raise missing_extra("ros,sim", error) from None
    result = bench_loop(
        Path(arguments.bundle),
        rate=arguments.rate,
        engine=arguments.engine,
        duration=arguments.duration,
        rounds=arguments.rounds,
        hogs=arguments.hogs,
        only=[name for name in arguments.loops.split(",") if name],
        report=ProgressPrinter(),
    )
    print(f"{'loop':<24} {'cycles':>7} {'overruns':>8}  lateness p50 / p99 / p99.9 / max [us]   overhead p50 [us]")
    for name, loop in result["loops"].items():
        late = " / ".join(f"{value:.0f}" for value in loop["lateness_us"].values())
        overhead = f"{loop['overhead_us']['p50']:.0f}" if "overhead_us" in loop else "-"
        print(f"{name:<24} {loop['cycles']:>7} {loop['overruns']:>8}  {late:<38} {overhead:>8}")
    for name, loop in result["loops"].items():
        for kind in ("late_cycles", "overruns") if "overruns_by_cause" in loop else ():
            causes = ", ".join(f"{cause} {count}" for cause, count in loop[f"{kind}_by_cause"].items())
            print(f"{name}, {kind.replace('_', ' ')} by cause: {causes}")
    return result


def _swap(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.benchmarks.swap import bench_swap
    except ModuleNotFoundError as error:
        raise missing_extra("ros,sim", error) from None
    if arguments.swaps < 1 or arguments.rounds < 1:
        raise SrdpError(f"--swaps {arguments.swaps} --rounds {arguments.rounds}: expected at least 1")
    result = bench_swap(
        Path(arguments.bundle),
        rate=arguments.rate,
        swaps=arguments.swaps,
        rounds=arguments.rounds,
        report=ProgressPrinter(),
    )
    print(
        f"{result['swaps']} swaps ({result['swaps_per_second']:.1f} a second) at {result['rate_hz']:.0f} Hz: "
        f"{result['cycles']} cycles, {result['commands']} commands, {result['overruns']} overruns "
        f"({result['quiet']['overruns']} of {result['quiet']['cycles']} without swaps)"
    )
    for name, late in (("with swaps", result["lateness_us"]), ("without", result["quiet"]["lateness_us"])):
        print(f"lateness {name:<10} " + "  ".join(f"{key} {value:.0f} us" for key, value in late.items()))
    return result


def _faults(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.benchmarks.faults import bench_faults
    except ModuleNotFoundError as error:
        raise missing_extra("ros,sim", error) from None
    result = bench_faults(Path(arguments.bundle), only=arguments.only, report=ProgressPrinter())
    heads = f"{'cycles':>7} {'commands':>8} {'unsafe':>6} {'recovered':>9} {'unrecorded':>10}"
    print(f"{'fault':<46} {'mode':<8} {'after':>8} {heads}")
    for row in result["faults"]:
        after = f"{row['time_to_mode_ms']:.0f} ms"
        counts = f"{row['cycles']:>7} {row['commands']:>8} {row['unsafe_commands']:>6}"
        end = f"{'yes' if row['recovered'] else 'no':>9} {row['recording_lost_ms']:>7.0f} ms"
        print(f"{row['name']:<46} {row['mode']:<8} {after:>8} {counts} {end}{'' if row['passed'] else '  FAILED'}")
    return result


def _soak(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.benchmarks.soak import bench_soak
    except ModuleNotFoundError as error:
        raise missing_extra("ros,sim", error) from None
    result = bench_soak(
        Path(arguments.bundle),
        rate=arguments.rate,
        engine=arguments.engine,
        duration=arguments.duration,
        warm_up=arguments.warm_up,
        report=ProgressPrinter(),
    )
    growth = result["growth"]
    print(
        f"{result['cycles']} cycles: resident memory {result['resident_bytes'] / 2**20:.1f} MiB, grown by "
        f"{growth['resident_bytes'] / 2**10:.0f} KiB since {result['warm_up_s']:.0f} s, threads +{growth['threads']}, "
        f"open files +{growth['open_files']}"
    )
    return result


def _deployment(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.benchmarks.deployment import bench_deployment, print_table
    except ModuleNotFoundError as error:
        raise missing_extra("sim", error) from None

    def numbers(text: str, option: str) -> list[float]:
        try:
            values = [float(word) for word in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) <= 0.0:
            raise SrdpError(f"{option} {text!r}: expected numbers above 0, separated by commas")
        return values

    result = bench_deployment(
        Path(arguments.bundle),
        scenario=arguments.scenario,
        rates=numbers(arguments.rates, "--rates"),
        slower=numbers(arguments.slower, "--slower"),
        episodes=arguments.episodes,
        processes=arguments.processes,
        picture=arguments.picture,
        report=ProgressPrinter(),
    )
    print_table(result)
    return result


def _latency(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        import matplotlib  # noqa: F401
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("sim", error) from None
    from srdp_controller.benchmarks.latency import bench_latency, print_tables

    try:
        sizes = [float(text) for text in arguments.sizes.split(",") if text]
    except ValueError:
        raise SrdpError(f"--sizes {arguments.sizes}: expected millions of parameters, e.g. 0.2,1,5") from None
    if arguments.rounds < 1 or arguments.starts < 1:
        raise SrdpError(f"--rounds {arguments.rounds} --starts {arguments.starts}: expected at least 1")
    result = bench_latency(
        Path(arguments.bundle),
        rounds=arguments.rounds,
        compile_torch=not arguments.no_compile,
        sizes=sizes,
        starts=arguments.starts,
        picture=arguments.picture,
        report=ProgressPrinter(),
    )
    print_tables(result)
    return result


def add_commands(commands: Any) -> None:
    """Add ``bench`` and what it can measure."""
    bench = commands.add_parser("bench", help="measure: latency, loop, swap, faults, soak, deployment").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )

    def add(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = bench.add_parser(name, help=text, description=text)
        parser.add_argument("bundle", nargs="?", default="models/pushing")
        parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON")
        parser.set_defaults(run=run)
        return parser

    latency = add("latency", "every policy against its floor and against the same network elsewhere", _latency)
    latency.add_argument("--rounds", type=int, default=30, help="turns in which everything is measured")
    latency.add_argument("--no-compile", action="store_true", help="without torch.compile (it takes minutes)")
    sizes = "0.2,0.5,1,2,5,10,20"
    latency.add_argument("--sizes", default=sizes, help="networks of so many million parameters; empty: none")
    latency.add_argument("--starts", type=int, default=5, help="fresh processes for each cold start")
    latency.add_argument("--picture", type=Path, default=None, help="draw it")
    loop = add("loop", "the controller's timing beside other loops", _loop)
    loop.add_argument("--rate", type=float, default=1000.0, metavar="HZ")
    loop.add_argument("--engine", default="student_k4")
    loop.add_argument("--duration", type=float, default=60.0, help="seconds for each loop")
    loop.add_argument("--rounds", type=int, default=3, help="turns in which the loops share that time")
    loop.add_argument("--hogs", action="store_true", help="with a process on every core that never rests")
    loop.add_argument("--loops", default="", metavar="NAMES", help="only these, separated by commas")
    swaps = add("swap", "what exchanging the engine costs the loop", _swap)
    swaps.add_argument("--rate", type=float, default=500.0, metavar="HZ")
    swaps.add_argument("--swaps", type=int, default=1000)
    swaps.add_argument("--rounds", type=int, default=3, help="turns, each followed by one without swaps")
    faults = add("faults", "the fault matrix: which mode each fault leads to, and how soon", _faults)
    faults.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains this")
    soak = add("soak", "does the controller's process grow while it runs for long?", _soak)
    soak.add_argument("--rate", type=float, default=200.0, metavar="HZ")
    soak.add_argument("--engine", default="student_k4")
    soak.add_argument("--duration", type=float, default=3600.0, help="seconds")
    soak.add_argument("--warm-up", type=float, default=300.0, help="seconds that do not count")
    ways = add("deployment", "teacher in the loop, teacher planning ahead, students: success, jerk, age", _deployment)
    ways.add_argument("--scenario", default="nominal")
    ways.add_argument("--rates", default="20,50,100,200,500", help="control rates [Hz]")
    ways.add_argument("--slower", default="1,10", help="multiples of the measured inference times")
    ways.add_argument("--episodes", type=int, default=50, help="episodes for each entry of the table")
    ways.add_argument("--processes", type=int, default=2)
    ways.add_argument("--picture", type=Path, default=None, help="draw the table")
