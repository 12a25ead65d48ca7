"""``srdp``: the table of commands. What a command takes and does stands in its function, which tyro reads.

Exit status: 0 on success, 1 on failure, 2 on bad usage or bad input (with one clear message). A command's module
is imported when the command runs, so that those of the robot never load torch.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from srdp_controller.errors import SrdpError, missing_extra


class Command(NamedTuple):
    """A function below this package (``module:function``), the extras that it needs, and a line of help."""

    target: str
    extra: str
    text: str


GROUPS: dict[str, dict[str, Command]] = {
    "offline": {
        "init": Command("offline.init.command:init", "sim,train", "a spec and a recipe for a robot of your own"),
        "check": Command(
            "offline.check:check_command", "sim,train", "what is wrong with a recipe, its spec and its data"
        ),
        "import": Command("offline.import_policy:import_policy", "sim", "a bundle of any ONNX policy, as it is"),
        "collect": Command("offline.pipeline:collect_command", "sim,train", "record an expert's demonstrations"),
        "pipeline": Command("offline.pipeline:pipeline_command", "train", "all stages, from dataset to bundle"),
    },
    "bundle": {
        "inspect": Command("bundle_commands:inspect", "cli", "show what a bundle holds"),
        "verify": Command("bundle_commands:verify", "cli", "check its hashes, and its engines against a reference"),
        "build-engine": Command("bundle_commands:build_engine", "gpu,sim", "build TensorRT engines of its policies"),
        "export leapp": Command("offline.leapp:export_leapp", "leapp", "write a policy as a LEAPP folder"),
        "pack": Command("bundle_commands:pack", "sign", "write a bundle as one file"),
        "install": Command("bundle_commands:install", "sign", "verify a packed bundle and put it in place"),
        "sign": Command("bundle_commands:sign", "sign", "sign a bundle"),
        "keygen": Command("bundle_commands:keygen", "sign", "make a key to sign bundles with"),
    },
    "evaluate": {
        "eval closed-loop": Command("evaluation.closed_loop:closed_loop", "sim", "success rate in simulation"),
        "eval table": Command("evaluation.table:table", "sim", "every policy in every scenario, for the model card"),
        "eval budget": Command("evaluation.latency_budget:budget", "sim", "how late commands may be"),
        "eval fidelity": Command("evaluation.fidelity:fidelity", "sim,train", "distance of the actions"),
        "eval demonstrations": Command(
            "evaluation.demonstrations:demonstrations", "sim,train", "what the demonstrator would have done"
        ),
        "eval replay": Command(
            "evaluation.replay:replay", "sim,train", "chunks beside the recorded actions, and the teacher's"
        ),
        "eval candidates": Command("evaluation.candidates:candidates", "sim", "how many chunks to sample in a cycle"),
        "experiment ablations": Command(
            "experiments.ablations:ablations", "sim,train", "what each ingredient is worth"
        ),
        "experiment direct-policies": Command(
            "experiments.direct_policies:direct_policies", "train", "the baselines that need training"
        ),
        "experiment latency": Command(
            "experiments.latency:latency", "sim,train", "what delay costs each policy, and each way to run a slow one"
        ),
        "experiment commitment": Command(
            "experiments.commitment:commitment", "sim,train", "how a policy is kept to what it has begun"
        ),
        "experiment futures": Command("experiments.futures:futures", "sim,train", "draw what each policy would do"),
        "experiment spread": Command(
            "experiments.spread:spread", "sim,train", "what the spread of sampled chunks tells, beside the distance"
        ),
        "experiment sheaf": Command("experiments.sheaf:sheaf", "sim,train", "draw among which chunks a policy chose"),
    },
    "measure": {
        "bench latency": Command("benchmarks.latency:bench_latency", "sim", "every policy beside its floor"),
        "bench loop": Command("benchmarks.loop:bench_loop", "ros,sim", "the controller's timing beside other loops"),
        "bench swap": Command("benchmarks.swap:bench_swap", "ros,sim", "what exchanging the engine costs the loop"),
        "bench faults": Command("benchmarks.faults:bench_faults", "ros,sim", "which mode each fault leads to"),
        "bench soak": Command("benchmarks.soak:bench_soak", "ros,sim", "does the controller grow in an hour?"),
        "bench deployment": Command("benchmarks.deployment:deployment", "sim", "the ways to run a policy"),
        "bench gpu": Command("benchmarks.gpu:bench_gpu", "gpu,sim", "all GPU checks in one go"),
        "report delay": Command("report.delay_figure:delay_figure", "sim", "draw what `experiment latency` found"),
        "report commitment": Command(
            "report.commitment_figure:commitment_figure", "sim", "draw what `experiment commitment` found"
        ),
        "report replay": Command("report.replay_figure:replay_figure", "sim", "draw what `eval replay` found"),
        "report tables": Command("report.tables:write_tables", "cli", "rewrite README, docs and model card"),
    },
    "run": {
        "demo": Command("demo:demo", "ros,sim", "simulated robot and controller over DDS"),
        "record": Command("ros.record_graph:record", "ros,sim", "record the running graph's topics as an MCAP bag"),
        "robot": Command("ros.robot_command:robot", "ros,sim", "a simulated robot, or a recording played again"),
        "summary": Command("report.run:summarise_run", "sim", "judge a run folder: table, pictures, exit status"),
        "swap": Command("ros.client:swap", "ros,cli", "swap the running controller's engine, bundle or provider"),
        "top": Command("ros.monitor:top", "ros,cli", "live view of the running controller"),
        "parameters": Command("report.tables:print_parameters", "cli", "every parameter of the nodes, as Markdown"),
    },
}
COMMANDS = {words: command for group in GROUPS.values() for words, command in group.items()}
HELP = ("-h", "--help")
JSON_HELP = "Every command takes --json PATH, which writes its result as JSON."


def overview(first: str = "") -> str:
    """The table, or the part of it whose commands begin with the word ``first``."""
    lines = ["usage: srdp COMMAND [--help] [OPTIONS] [--json PATH]", ""]
    for title, group in GROUPS.items():
        chosen = {words: command for words, command in group.items() if first in ("", words.split()[0])}
        if chosen:
            lines += [f"{title}:", *(f"  {words:<26} {command.text}" for words, command in chosen.items()), ""]
    return "\n".join([*lines, JSON_HELP])


def find(words: list[str]) -> tuple[str, Command]:
    """The command that ``words`` begin with, and its words.

    Raises:
        SrdpError: there is none; the message names those that are meant.
    """
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, COMMANDS[name]
    given = " ".join(words[:2]) if any(name.startswith(f"{words[0]} ") for name in COMMANDS) else words[0]
    near = [name for name in COMMANDS if name.split()[0] == words[0]] or difflib.get_close_matches(given, COMMANDS)
    hint = f"there is: {', '.join(near)}" if near else "srdp --help lists them all"
    raise SrdpError(f"no command {given!r}; {hint}")


def cut_json(words: list[str]) -> tuple[list[str], Path | None]:
    """The words without ``--json PATH``, and the path."""
    for place, word in enumerate(words):
        if word.startswith("--json="):
            return words[:place] + words[place + 1 :], Path(word.removeprefix("--json="))
        if word == "--json":
            if place + 1 == len(words):
                raise SrdpError("--json: expected the path of a file to write")
            return words[:place] + words[place + 2 :], Path(words[place + 1])
    return words, None


def run(words: list[str]) -> int:
    """Run a command; its exit status. Errors as the command raises them."""
    if not words or words[0] in HELP:
        print(overview())
        return 0 if words else 2
    if words[1:2] and words[1] in HELP and any(name.startswith(f"{words[0]} ") for name in COMMANDS):
        print(overview(words[0]))
        return 0
    rest, path = cut_json(words)
    name, command = find(rest)
    try:
        import tyro

        module, _, function = command.target.partition(":")
        call = getattr(importlib.import_module(f"srdp_controller.{module}"), function)
        result: dict[str, Any] = tyro.cli(
            call, prog=f"srdp {name}", args=rest[len(name.split()) :], config=(tyro.conf.FlagCreatePairsOff,)
        )
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("srdp_controller"):
            raise
        raise missing_extra(command.extra, error) from None
    except SystemExit as ended:  # tyro has printed help, or what was wrong
        if ended.code == 0:
            print(JSON_HELP)
        return int(ended.code or 0)
    if path is not None:
        from srdp_controller.files import write_json
        from srdp_controller.provenance import describe_run

        write_json(path, {**describe_run(f"srdp {' '.join(words)}", result.get("seed")), **result})
    return 1 if result.get("failed") else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``srdp``; the exit status."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that worker processes end with this one
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except SrdpError as error:
        print(f"srdp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("srdp: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
