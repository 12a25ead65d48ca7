"""Closed-loop tables of a bundle and its model card: `python benchmarks/model_card.py models/pushing`.

Writes ``results/closed_loop.json`` (rewritten after every row, resumed when interrupted) and
``MODEL_CARD.md`` into the bundle's folder. Every figure of the card comes from that file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.evaluation.closed_loop import evaluate
from srdp_controller.files import write_json
from srdp_controller.progress import ProgressPrinter
from srdp_controller.provenance import describe_run

POLICIES = ("teacher", "student_k1", "student_k2", "student_k4", "student_k8")
BASELINES = ("ddim_k1", "ddim_k2", "ddim_k4", "ddim_k8")
ONLY_STUDENTS = ("symmetric", "noisy", "heavy", "lossy")
SCENARIOS = ("nominal", "shifted", "delayed", "symmetric", "noisy", "heavy", "lossy")
# a baseline that fails runs every episode to its time limit: a fifth of the episodes tells as much
BASELINE_SHARE = 0.2
FEWER = {"noisy": 0.4, "heavy": 0.4, "lossy": 0.4}


def measure(folder: Path, episodes: int, seed: int, processes: int) -> dict[str, Any]:
    """Evaluate every policy in every scenario."""
    bundle = load_bundle(folder)
    graphs = {name: entry.sha256 for name, entry in bundle.content.policies.items()}
    path = folder / "results" / "closed_loop.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    same = old.get("seed") == seed and old.get("episodes") == episodes
    # a row stays as long as the graph that it was measured on does; plain DDIM runs on the teacher's
    rows = [row for row in old["rows"] if _graph(row, old["graphs"]) == _graph(row, graphs)] if same else []
    for row in rows:
        row.setdefault("commit", old["commit"])
    done = {(row["policy"], row["scenario"]) for row in rows}
    commit = describe_run("", seed)["commit"]
    report = ProgressPrinter()
    for scenario in SCENARIOS:
        for policy in POLICIES if scenario in ONLY_STUDENTS else (*POLICIES, *BASELINES):
            if (policy, scenario) in done:
                continue
            share = BASELINE_SHARE if policy in BASELINES else FEWER.get(scenario, 1.0)
            count = max(1, round(share * episodes))
            row = evaluate(folder, policy, scenario, count, seed=seed, processes=processes, report=report)
            rows.append({**{key: value for key, value in row.items() if key != "bundle"}, "commit": commit})
            rows.sort(key=lambda row: (SCENARIOS.index(row["scenario"]), (*POLICIES, *BASELINES).index(row["policy"])))
            command = f"benchmarks/model_card.py {folder} --episodes {episodes} --seed {seed}"
            result = {**describe_run(command, seed), "graphs": graphs, "episodes": episodes, "rows": rows}
            write_json(path, result)
    return json.loads(path.read_text())


def _graph(row: dict[str, Any], graphs: dict[str, str]) -> str | None:
    return graphs.get("teacher" if row["policy"] in BASELINES else row["policy"])


def table(rows: list[dict[str, Any]], scenario: str) -> list[str]:
    """Markdown rows of one scenario."""
    lines = [
        "| policy | success | 95 % interval | both ways (left / right / stuck) | post contacts | episode |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["scenario"] != scenario:
            continue
        low, high = row["success_interval"]
        ways = " / ".join(str(row["ways"][way]) for way in ("left", "right", "stuck"))
        name = row["policy"].replace("ddim_k", "plain DDIM, K = ").replace("student_k", "student, K = ")
        lines.append(
            f"| {name} | {row['successes']} of {row['episodes']} ({row['success_rate']:.1%}) | "
            f"{low:.1%} to {high:.1%} | {ways} | {row['post_contacts']} | {row['mean_episode_s']:.1f} s |"
        )
    return lines


def fidelity_section(folder: Path) -> list[str]:
    """Distances of the action distributions, as far as `srdp eval fidelity` has measured them."""
    lines = [
        "## Fidelity",
        "",
        "Distance of each policy's action chunks from the teacher's as shipped (`results/fidelity_STATES.json`):",
        "sliced Wasserstein as a multiple of the teacher against itself with other noise, a lower bound on the total",
        "variation by a classifier, the share of the teacher's two modes kept (in brackets: by its own second sample),",
        "and the difference under the same noise, in units of the action's scale; 95 % bootstrap intervals. `ddim` and",
        "`dpm` (DPM-Solver++) take K steps of the teacher itself, `direct` is a K-step diffusion policy trained on the",
        "same data without a teacher. `two_way`: visited states at which the teacher goes either way.",
        "",
        "| states | policy | distance / floor | / plain DDIM | TV at least | modes kept | RMSE, same noise |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("test", "shifted", "augmented", "two_way"):
        path = folder / "results" / f"fidelity_{kind}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        own = result["floor"]["mode_coverage"]
        for name, entry in {**result["policies"], **result["baselines"]}.items():
            kept, error, share = entry["mode_coverage"], entry["matched_noise_rmse"], entry["ratio_to_ddim"]
            low, high = entry["ratio_to_floor_interval"]
            modes = "" if kept is None else f"{kept:.2f} ({own:.2f})"
            lines.append(
                f"| {kind} | {name} | {entry['ratio_to_floor']:.2f} ({low:.2f} to {high:.2f}) | "
                f"{'' if share is None else format(share, '.2f')} | {entry['tv_lower']:.2f} | {modes} | "
                f"{'' if error is None else format(error, '.3f')} |"
            )
    return lines if len(lines) > 11 else []


def commits(result: dict[str, Any]) -> str:
    """The commits that the rows were measured at."""
    return ", ".join(sorted({row.get("commit", result["commit"]) for row in result["rows"]}))


def card(bundle: LoadedBundle, result: dict[str, Any]) -> str:
    """Text of the model card."""
    content = bundle.content
    stages = content.provenance["stages"]
    collected = stages["collect"]
    rate = content.spec.control_rate_hz
    calibration = bundle.calibration()
    lines = [
        f"# Model card: {content.task}",
        "",
        "A box is pushed round a post to a goal (within 2.5 cm) by a torque-limited KUKA iiwa in PyBullet.",
        "`teacher` is an SRDP diffusion policy (T = 100 deterministic steps), `student_kK` its K-step students,",
        "distilled offline. `make bundle` rebuilds all of it; `make evaluate` measures it and writes this card.",
        "",
        "## What it was made from",
        "",
        f"- {collected['episodes']} demonstrations, {collected['steps']} steps at {rate:.0f} Hz, "
        f"of a scripted expert, which succeeded in {collected['successes']}; the executed commands were disturbed, "
        "the expert's own were recorded. The starts and goals of scenario `shifted` are left out.",
        f"- Observation: {', '.join(component.name for component in content.spec.observation)}; "
        f"action: {content.spec.horizon} x {', '.join(component.name for component in content.spec.action)}.",
        f"- Seed {content.provenance['seed']}, dataset {content.provenance['dataset'][:12]}, "
        f"recipe {content.provenance['recipe'][:12]}.",
        "- Seconds of each stage: " + ", ".join(f"{name} {stages[name]['seconds']:.0f}" for name in stages) + ".",
        "",
        f"## Closed loop, up to {result['episodes']} episodes each",
        "",
        f"At 100 Hz, one action executed per evaluation, noise held for 0.2 s, seed {result['seed']}, commit "
        f'{commits(result)} (`results/closed_loop.json`). "Both ways" counts the episodes whose start lets the expert '
        "go either way. Inference counts as instant here; what slow inference costs is the figure in the README.",
    ]
    for scenario in SCENARIOS:
        rows = table(result["rows"], scenario)
        if len(rows) > 2:
            lines += ["", f"### {scenario}", "", *rows]
    lines += ["", *fidelity_section(bundle.folder)]
    lines += [
        "",
        "## Abstention",
        "",
        f"Split conformal thresholds of the latent distance over {calibration.trajectories} held-out trajectories:",
        "at most a share alpha of fresh trajectories like the dataset's raises any alarm.",
        "Under shift nothing is promised.",
        "",
        "| policy | " + " | ".join(f"alpha {alpha}" for alpha in calibration.policies["student_k1"].thresholds) + " |",
        "| --- |" + " --- |" * len(calibration.policies["student_k1"].thresholds),
    ]
    for name, entry in calibration.policies.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in entry.thresholds.values()) + " |")
    lines += [
        "",
        "## Limits",
        "",
        "- Trained on one simulated arm and one box; nothing here was run on a real robot.",
        "- A student copies its teacher, mistakes included; it was distilled to match actions, not to be safe.",
        "- The latent distance sees states unlike the data. Noise and bias that stay inside the data's range are",
        "  invisible to it.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("models/pushing"))
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    result = measure(arguments.bundle, arguments.episodes, arguments.seed, arguments.processes)
    (arguments.bundle / "MODEL_CARD.md").write_text(card(load_bundle(arguments.bundle), result))
    print(arguments.bundle / "MODEL_CARD.md")


if __name__ == "__main__":
    main()
