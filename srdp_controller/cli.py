"""``srdp``: the command line of the whole stack.

Exit status: 0 on success, 1 on failure, 2 on bad usage or bad input (with one clear message).
Commands import what they need when they run, so that those of the robot never load torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from srdp_controller.cli_bench import add_commands as add_benchmarks
from srdp_controller.cli_bundles import add_commands as add_bundles
from srdp_controller.cli_experiments import add_commands as add_experiments
from srdp_controller.errors import SrdpError, missing_extra

DESCRIPTION = "Train, distil, certify, export and run few-step diffusion policies on ROS 2 robots."


# --- offline -----------------------------------------------------------------------------------


def _pipeline(arguments: argparse.Namespace, last: str) -> dict[str, Any]:
    try:
        from srdp_controller.offline.pipeline import run_pipeline
        from srdp_controller.offline.recipe import load_recipe
    except ModuleNotFoundError as error:
        raise missing_extra("train", error) from None
    from srdp_controller.progress import ProgressPrinter
    from srdp_controller.resources import find_resource

    recipe_path = Path(arguments.recipe) if arguments.recipe else find_resource("export/pushing.yaml")
    recipe = load_recipe(recipe_path, arguments.set)
    folder = Path(arguments.run_folder or f"runs/{recipe.task}")
    target = Path(arguments.output or f"models/{recipe.task}")
    run = run_pipeline(recipe, folder, target, ProgressPrinter(), last)
    stages = run.record()
    result: dict[str, Any] = {"seed": recipe.seed, "run_folder": str(folder), "stages": stages}
    if last == "export":
        result["bundle"] = str(target)
        result["bundle_sha256"] = stages["export"]["facts"]["bundle_sha256"]
        print(f"bundle {target}, SHA-256 {result['bundle_sha256']} (spec, graphs, calibration)")
        print("`make evaluate` measures it and writes its model card")
    return result


def _add_pipeline(commands: Any) -> None:
    stages = {
        "collect": ("collect", "record the scripted expert's demonstrations"),
        "train": ("train", "train the SRDP teacher"),
        "distill": ("distill", "distil the K-step students"),
        "calibrate": ("calibrate", "calibrate the abstention thresholds"),
        "export": ("export", "export and check the bundle"),
        "pipeline": ("export", "all stages, from dataset to bundle"),
    }
    for name, (last, text) in stages.items():
        parser = commands.add_parser(
            name,
            help=text,
            description=f"{text}. Stages whose inputs are unchanged are skipped; interrupted ones resume.",
        )
        parser.add_argument("recipe", nargs="?", help="recipe YAML (default: the shipped export/pushing.yaml)")
        parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override, e.g. teacher.steps=5000")
        parser.add_argument("--run-folder", help="checkpoints and metrics (default: runs/TASK)")
        parser.add_argument("--output", help="bundle folder (default: models/TASK)")
        parser.set_defaults(run=lambda arguments, last=last: _pipeline(arguments, last))


# --- bundle ------------------------------------------------------------------------------------


def _inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.bundle import load_bundle

    bundle = load_bundle(arguments.bundle)
    spec = bundle.spec
    print(f"SHA-256 {bundle.identity} (spec, graphs, calibration; not the provenance)")
    print(f"task {spec.task}, control rate {spec.control_rate_hz} Hz, horizon {spec.horizon}")
    for kind, components in (("observation", spec.observation), ("action", spec.action)):
        for component in components:
            source = getattr(component, "source", None)
            origin = f"  <- {getattr(source, 'topic', source.kind)}" if source is not None else ""
            print(
                f"  {kind}[{component.index}] {component.name} [{component.unit}] "
                f"{component.lower} .. {component.upper}{origin}"
            )
    calibration = bundle.calibration()
    for name, entry in bundle.content.policies.items():
        size = len(bundle.read(entry))
        thresholds = calibration.policies.get(name)
        text = f", thresholds {thresholds.thresholds}" if thresholds else ""
        print(f"  {name}: {entry.steps} steps, {size / 1e6:.2f} MB, SHA-256 {entry.sha256[:12]}{text}")
    return {"seed": None, "bundle": bundle.content.model_dump(mode="json")}


def _verify(arguments: argparse.Namespace) -> dict[str, Any]:
    from srdp_controller.engines.providers import EngineOptions
    from srdp_controller.offline.export.verify import verify_bundle

    options = EngineOptions(arguments.cache, arguments.precision)
    others: dict[str, Any] = {}
    try:
        from srdp_controller.benchmarks.torch_engine import TorchEngine
    except ModuleNotFoundError:
        print("PyTorch is not installed here: it is left out")
    else:
        others["torch_eager"] = TorchEngine
    result = verify_bundle(arguments.bundle, providers=arguments.provider, options=options, others=others)
    for name, engines in result["policies"].items():
        for engine, entry in engines.items():
            print(
                f"{name:<12} {engine:<12} max abs error {entry['max_abs_error']:.2e} "
                f"(tolerance {entry['tolerance']:.0e}) {'ok' if entry['passed'] else 'FAILED'}"
            )
    for provider, reason in result["left_out"].items():
        print(f"{provider} is left out: {reason}")
    result["failed"] = not all(entry["passed"] for engines in result["policies"].values() for entry in engines.values())
    return {"seed": 0, **result}


def _parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    import yaml

    from srdp_controller.resources import find_resource

    schemas = {}
    print("# Parameters\n\nPrinted by `srdp parameters` from `config/*.yaml`, from which the nodes declare them.")
    for node in ("controller", "simulation"):
        schema = yaml.safe_load(find_resource(f"config/{node}_parameters.yaml").read_text())
        schemas[node] = schema
        print(f"\n## /srdp_{node}\n\n| parameter | type | default | range | when | effect |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, entry in schema.items():
            limits = entry.get("range") or entry.get("one_of") or ""
            text = ", ".join(str(limit) for limit in limits)
            when = "at the start" if entry.get("read_only") else "any time"
            print(f"| `{name}` | {entry['type']} | `{entry['default']}` | {text} | {when} | {entry['description']} |")
    return {"seed": None, "parameters": schemas}


# --- evaluation --------------------------------------------------------------------------------


def _closed_loop(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.evaluation.closed_loop import evaluate
    except ModuleNotFoundError as error:
        raise missing_extra("sim", error) from None
    from srdp_controller.progress import ProgressPrinter

    result = evaluate(
        Path(arguments.bundle),
        arguments.policy,
        arguments.scenario,
        arguments.episodes,
        seed=arguments.seed,
        update_rate_hz=arguments.update_rate,
        noise_hold_s=arguments.noise_hold,
        processes=arguments.processes,
        report=ProgressPrinter(),
    )
    low, high = result["success_interval"]
    print(
        f"{result['policy']} in {result['scenario']} at {result['update_rate_hz']:.0f} Hz: "
        f"{result['successes']} of {result['episodes']} ({result['success_rate']:.1%}, 95 % {low:.1%} to {high:.1%}), "
        f"ways {result['ways']}, {result['mean_episode_s']:.1f} s an episode, {result['post_contacts']} post contacts"
    )
    return result


def _fidelity(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.evaluation.fidelity import evaluate_fidelity
    except ModuleNotFoundError as error:
        raise missing_extra("sim,train", error) from None
    from srdp_controller.progress import ProgressPrinter

    result = evaluate_fidelity(
        Path(arguments.bundle),
        arguments.states,
        states=arguments.count,
        samples=arguments.samples,
        seed=arguments.seed,
        report=ProgressPrinter(),
        direct=[Path(folder) for folder in arguments.direct or []],
    )

    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    print(f"{'policy':<12} {'SW / floor':>10} {'SW / DDIM':>10} {'MMD^2':>9} {'TV >=':>6} {'modes':>6} {'RMSE':>6}")
    for name, entry in {**result["policies"], **result["baselines"]}.items():
        print(
            f"{name:<12} {cell(entry['ratio_to_floor'], 2):>10} {cell(entry['ratio_to_ddim'], 3):>10} "
            f"{cell(entry['mmd'], 5):>9} {cell(entry['tv_lower'], 2):>6} {cell(entry['mode_coverage'], 2):>6} "
            f"{cell(entry['matched_noise_rmse'], 3):>6}"
        )
    if result["floor"]["mode_coverage"] is not None:
        print(f"the teacher's own second sample keeps {result['floor']['mode_coverage']:.2f} of its modes")
    return result


def _add_eval(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="measure policies: closed-loop, fidelity").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    parser = evaluate.add_parser("closed-loop", help="success rate in simulation")
    parser.add_argument("bundle", help="bundle folder, e.g. models/pushing")
    parser.add_argument("--policy", required=True, help="a policy of the bundle, or ddim_kN or dpm_kN")
    parser.add_argument("--scenario", default="nominal")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update-rate", type=float, default=100.0, metavar="HZ")
    parser.add_argument("--noise-hold", type=float, default=0.2, metavar="S", help="0 draws the noise every cycle")
    parser.add_argument("--processes", type=int, default=2)
    _common(parser)
    parser.set_defaults(run=_closed_loop)
    parser = evaluate.add_parser("fidelity", help="distance of each student's actions from its teacher's")
    parser.add_argument("bundle", help="bundle folder, e.g. models/pushing")
    parser.add_argument(
        "--states", default="test", help="test, shifted, augmented, or two_way: those where the teacher has two modes"
    )
    parser.add_argument("--count", type=int, default=128, help="number of states")
    parser.add_argument("--samples", type=int, default=64, help="actions drawn at each state")
    parser.add_argument(
        "--direct", action="append", metavar="BUNDLE", help="bundle of a few-step diffusion trained without a teacher"
    )
    parser.add_argument("--seed", type=int, default=0)
    _common(parser)
    parser.set_defaults(run=_fidelity)


# --- running -----------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.demo import run_demo
    except ModuleNotFoundError as error:
        raise missing_extra("ros,sim", error) from None

    return run_demo(
        engine=arguments.engine,
        scenario=arguments.scenario,
        duration=arguments.duration,
        update_rate=arguments.update_rate,
        provider=arguments.provider,
        swap=arguments.swap,
        run_folder=Path(arguments.run_folder),
        model=arguments.model,
        gui=arguments.gui,
        seed=arguments.seed,
        planning=arguments.planning,
    )


def _swap(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.ros.swap_client import request_swap
    except ModuleNotFoundError as error:
        raise missing_extra("ros", error) from None

    changes = {"engine": arguments.engine, "model_dir": arguments.model, "provider": arguments.provider}
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        raise SrdpError("swap what? Give an engine, --model or --provider")
    if arguments.model:
        changes["model_dir"] = str(Path(arguments.model).resolve())
    message = request_swap(changes, arguments.timeout)
    print(message)
    return {"seed": None, **changes, "message": message}


def _top(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.ros.monitor import top
    except ModuleNotFoundError as error:
        raise missing_extra("ros", error) from None

    values = top(arguments.duration)
    return {"seed": None, "values": values, "failed": not values}


def _summarise(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.report.run import summarise_run
    except ModuleNotFoundError as error:
        raise missing_extra("sim", error) from None

    return summarise_run(Path(arguments.run_folder))


def _latency_success(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.evaluation.latency_success import latency_success
    except ModuleNotFoundError as error:
        raise missing_extra("sim", error) from None
    from srdp_controller.progress import ProgressPrinter

    return latency_success(
        Path(arguments.bundle),
        episodes=arguments.episodes,
        rates=[float(rate) for rate in arguments.rates.split(",")],
        slower=[float(factor) for factor in arguments.slower.split(",")],
        picture=Path(arguments.picture),
        processes=arguments.processes,
        seed=arguments.seed,
        report=ProgressPrinter(),
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="srdp", description=DESCRIPTION)
    parser.add_argument("--json", type=Path, metavar="PATH", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_pipeline(commands)
    for name, run, text in (
        ("inspect", _inspect, "show what a bundle holds"),
        ("verify", _verify, "check a bundle's hashes and its engines against a reference"),
    ):
        inspect = commands.add_parser(name, help=text)
        inspect.add_argument("bundle", help="bundle folder, e.g. models/pushing")
        inspect.set_defaults(run=run)
        if name == "verify":
            choices = ("cpu", "cuda", "tensorrt", "tensorrt_rtx")
            text = "providers that must work; default: those that can be used here"
            inspect.add_argument("--provider", nargs="+", choices=choices, help=text)
            inspect.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of TensorRT engines")
            inspect.add_argument("--cache", default="", metavar="FOLDER", help="of TensorRT engines")
    parameters = commands.add_parser("parameters", help="print every parameter of the nodes as Markdown")
    parameters.set_defaults(run=_parameters)
    _add_eval(commands)
    add_experiments(commands)
    add_bundles(commands)
    add_benchmarks(commands)
    demo = commands.add_parser("demo", help="run the simulated robot and the controller over DDS")
    demo.add_argument("--engine", default="student_k4")
    demo.add_argument("--scenario", default="nominal")
    demo.add_argument("--duration", type=float, default=30.0, help="seconds of control")
    demo.add_argument("--update-rate", type=float, default=100.0, metavar="HZ")
    demo.add_argument("--provider", default="cpu")
    demo.add_argument(
        "--planning",
        default="every_cycle",
        choices=["every_cycle", "ahead", "auto"],
        help="run the engine in every cycle, or ahead of the loop (auto: where it outlasts the period)",
    )
    demo.add_argument("--swap", action="store_true", help="swap the engine at half time")
    demo.add_argument("--run-folder", default="runs/latest")
    demo.add_argument("--model", default="", help="bundle folder (default: the shipped models/pushing)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--gui", action="store_true", help="open the PyBullet window")
    demo.set_defaults(run=_demo)
    swap = commands.add_parser("swap", help="swap the running controller's engine, bundle or provider")
    swap.add_argument("engine", nargs="?", help="a policy of the bundle")
    swap.add_argument("--model", metavar="BUNDLE", help="another bundle for the same robot")
    swap.add_argument("--provider", help="cpu, cuda, tensorrt or tensorrt_rtx")
    swap.add_argument("--timeout", type=float, default=10.0)
    swap.set_defaults(run=_swap)
    live = commands.add_parser("top", help="live view of the running controller")
    live.add_argument("--duration", type=float, help="seconds (default: until Ctrl-C)")
    live.set_defaults(run=_top)
    summary = commands.add_parser("summary", help="judge a run folder: table, plot, exit status")
    summary.add_argument("run_folder", nargs="?", default="runs/latest")
    summary.set_defaults(run=_summarise)
    report = commands.add_parser("report", help="figures: latency-success").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    figure = report.add_parser("latency-success", help="closed-loop success against control rate")
    figure.add_argument("bundle", nargs="?", default="models/pushing")
    figure.add_argument("--episodes", type=int, default=40)
    figure.add_argument("--rates", default="20,50,100,200,500")
    figure.add_argument("--slower", default="1,10", help="multiples of the measured inference time")
    figure.add_argument("--picture", default="results/eval/latency_success.png")
    figure.add_argument("--processes", type=int, default=2)
    figure.add_argument("--seed", type=int, default=0)
    figure.set_defaults(run=_latency_success)
    for command in commands.choices.values():
        if not any("--json" in action.option_strings for action in command._actions) and command.get_default("run"):
            _common(command)
    _common(figure)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``srdp``."""
    parsed = build_parser().parse_args(arguments)
    command = "srdp " + " ".join(sys.argv[1:] if arguments is None else arguments)
    try:
        result = parsed.run(parsed)
        if parsed.json is not None:
            from srdp_controller.files import write_json
            from srdp_controller.provenance import describe_run

            write_json(parsed.json, {**describe_run(command, result.get("seed")), **result})
        return 1 if result.get("failed") else 0
    except SrdpError as error:
        print(f"srdp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("srdp: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
