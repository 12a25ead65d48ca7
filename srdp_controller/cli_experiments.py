"""``srdp sweep`` and ``srdp experiment``: many trainings at once, and the paper's experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError, missing_extra


def _recipe_path(arguments: argparse.Namespace) -> Path:
    from srdp_controller.resources import find_resource

    return Path(arguments.recipe) if arguments.recipe else find_resource("export/pushing.yaml")


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SrdpError(f"{option} {text}: expected whole numbers with commas between, e.g. 0,1,2") from None


def _sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.offline.sweep import sweep, variants
    except ModuleNotFoundError as error:
        raise missing_extra("sim,train", error) from None
    from srdp_controller.progress import ProgressPrinter

    found = variants(
        _recipe_path(arguments), arguments.set or [], arguments.vary or [], _numbers(arguments.seeds, "--seeds")
    )
    rows = sweep(
        found,
        Path(arguments.run_folder).resolve(),
        last=arguments.last,
        base=Path(arguments.base).resolve() if arguments.base else None,
        processes=arguments.processes,
        backend=arguments.backend,
        cluster=arguments.cluster,
        report=ProgressPrinter(),
    )
    for row in rows:
        final = {name: round(metric["loss"], 5) for name, metric in row["metrics"].items()}
        print(f"{row['name']:<48} {final}")
    return {"seed": None, "rows": rows}


def _ablations(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.experiments.ablations import run_ablations
        from srdp_controller.offline.recipe import load_recipe
    except ModuleNotFoundError as error:
        raise missing_extra("sim,train", error) from None
    from srdp_controller.progress import ProgressPrinter

    result = run_ablations(
        load_recipe(_recipe_path(arguments), arguments.set),
        Path(arguments.run_folder),
        quick=arguments.quick,
        seeds=arguments.seeds,
        processes=arguments.processes,
        backend=arguments.backend,
        cluster=arguments.cluster,
        picture=Path(arguments.picture),
        report=ProgressPrinter(),
    )
    print(f"{'variant':<30} {'K':>2} {'test':>7} {'shifted':>8} {'far':>7} {'latent':>7} {'nominal':>8} {'shifted':>8}")
    for line in result["table"]:
        states = line["states"]
        latent = states["shifted"]["latent_distance"]["mean"]
        print(
            f"{line['variant']:<30} {line['K']:>2} {states['test']['ratio_to_floor']['mean']:>7.2f} "
            f"{states['shifted']['ratio_to_floor']['mean']:>8.2f} {states['far']['ratio_to_floor']['mean']:>7.2f} "
            f"{'-' if latent is None else format(latent, '.3f'):>7} {line['success_rate']['nominal']['mean']:>8.1%} "
            f"{line['success_rate']['shifted']['mean']:>8.1%}"
        )
    print("distances are multiples of the teacher-against-itself floor; latent: distance on shifted states, relative")
    return result


def _chunking(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from srdp_controller.experiments.chunking import run_chunking
        from srdp_controller.offline.recipe import load_recipe
    except ModuleNotFoundError as error:
        raise missing_extra("sim,train", error) from None
    from srdp_controller.progress import ProgressPrinter

    result = run_chunking(
        load_recipe(_recipe_path(arguments), arguments.set),
        Path(arguments.run_folder),
        quick=arguments.quick,
        episodes=arguments.episodes,
        processes=arguments.processes,
        report=ProgressPrinter(),
    )
    print(
        f"{'policy':<16} {'scenario':<9} {'joining':<7} {'plan [s]':>8} {'success':>8} {'jump':>6} {'change':>7} [m/s]"
    )
    for row in result["table"]:
        smooth = "" if row["jump_m_s"] is None else f"{row['jump_m_s']:>6.3f} {row['change_m_s']:>7.3f}"
        print(
            f"{row['policy']:<16} {row['scenario']:<9} {row['joining'] or '-':<7} {row['plan_takes_s']:>8.2f} "
            f"{row['success_rate']:>8.1%} {smooth}"
        )
    return result


def _parallel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--backend", choices=("loky", "dask", "ray"), default="loky", help="where the processes run")
    parser.add_argument("--cluster", metavar="ADDRESS", help="scheduler of a Dask or Ray cluster with a shared disk")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override, e.g. distill.steps=5000")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON")


def add_commands(commands: Any) -> None:
    """Add ``sweep`` and ``experiment`` to the parser's commands."""
    parser = commands.add_parser(
        "sweep",
        help="run the pipeline over settings and seeds, in parallel",
        description="One run folder for each combination; run it again to go on. "
        "Example: srdp sweep --vary distill.latent_weight=0,0.1 --seeds 0,1,2 --base runs/pushing",
    )
    parser.add_argument("recipe", nargs="?", help="recipe YAML (default: the shipped export/pushing.yaml)")
    parser.add_argument("--vary", action="append", metavar="KEY=V1,V2", help="values to try; may be given again")
    parser.add_argument("--seeds", default="0", help="recipe seeds, with commas")
    parser.add_argument("--last", default="export", choices=("collect", "train", "distill", "calibrate", "export"))
    parser.add_argument("--base", metavar="RUN", help="run folder whose unchanged stages are taken over")
    parser.add_argument("--run-folder", default="runs/sweep")
    _parallel(parser)
    parser.set_defaults(run=_sweep)
    experiment = commands.add_parser("experiment", help="experiments: ablations, chunking").add_subparsers(
        dest="what", required=True, metavar="NAME"
    )
    parser = experiment.add_parser(
        "ablations",
        help="section 8: which ingredient keeps the student at its teacher",
        description="Trains every variant with several seeds (about an hour on 2 cores; --quick: a minute) "
        "in the run folder of a pipeline; run it again to go on.",
    )
    parser.add_argument("recipe", nargs="?", help="recipe YAML (default: the shipped export/pushing.yaml)")
    parser.add_argument("--quick", action="store_true", help="two seeds, three variants, toy budget")
    parser.add_argument("--seeds", type=int, help="number of seeds (default 3)")
    parser.add_argument("--run-folder", default="runs/pushing")
    parser.add_argument("--picture", default="results/experiment/ablations.png")
    _parallel(parser)
    parser.set_defaults(run=_ablations)
    parser = experiment.add_parser(
        "chunking",
        help="what a policy gains from knowing its past and its committed commands",
        description="Trains teachers with command history and action prefix and drives them (about 20 minutes on "
        "2 cores) in the run folder of a pipeline; run it again to go on.",
    )
    parser.add_argument("recipe", nargs="?", help="recipe YAML (default: the shipped export/pushing.yaml)")
    parser.add_argument("--quick", action="store_true", help="toy budget")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--run-folder", default="runs/pushing")
    _parallel(parser)
    parser.set_defaults(run=_chunking)
