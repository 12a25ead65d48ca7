"""Section 8's ablations: which ingredient of the distillation keeps the student at its teacher, also off the data.

Every variant trains students from one teacher on one budget; a seed draws the student's minibatches and
has a third of the teacher's queries to itself, so that seeds share no training data. What is reported of
each: distance of the action distribution to the teacher's (times the teacher-against-itself floor), error
under matched noise, latent distance, on held-out, shifted, and twice differently augmented states, and
closed-loop success. Differences to ``full`` are paired by seed, with 95 % t intervals.
"""

from __future__ import annotations

import functools
import io
import json
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdp_controller.evaluation.fidelity import Reference, compare, make_reference
from srdp_controller.evaluation.policies import Policy, without_latent
from srdp_controller.evaluation.rollout import Driver, rollout
from srdp_controller.evaluation.states import AUGMENTATION, draw_states
from srdp_controller.files import write_file, write_json
from srdp_controller.offline.dataset import samples
from srdp_controller.offline.distill import distill
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Overrides, Pipeline, RecipePath, shipped_recipe
from srdp_controller.offline.queries import load_queries
from srdp_controller.offline.recipe import DistillRecipe, Recipe, content_hash, load_recipe
from srdp_controller.offline.train_teacher import train_teacher
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.student import Student
from srdp_controller.progress import ProgressPrinter, Report
from srdp_controller.report.figures import save_figure
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

# normalised states (B, obs_dim), draws (B, n_noise, horizon * act_dim) -> normalised chunks (B, horizon * act_dim)
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FAR = 0.5  # std of the far augmentation, in normalised units: beyond anything trained on


@dataclass(frozen=True)
class Ablation:
    """A named change of the distillation; ``direct`` trains a few-step diffusion on the data instead."""

    name: str
    says: str
    changes: dict[str, Any] = field(default_factory=dict)
    only_above_one: bool = False
    direct: bool = False


ABLATIONS = (
    Ablation("full", "the shipped recipe at this budget"),
    Ablation("no_alignment", "(i) no latent alignment", {"latent_weight": 0.0}),
    Ablation("strong_alignment", "ten times the latent weight", {"latent_weight": 1.0}),
    Ablation("terminal_only", "(ii) terminal actions only", {"warm_share": 0.0}, only_above_one=True),
    Ablation("direct", "(iii) K-step diffusion trained on the data, no teacher", direct=True),
    Ablation("frozen_trunk", "(iv) the teacher's trunk, frozen", {"trunk": "frozen"}),
    Ablation("no_augmentation", "dataset states only", {"augmented_share": 0.0}),
    Ablation(
        "wide_augmentation", "noise of 0.4 on half of the states", {"augmented_share": 0.5, "augmentation_noise": 0.4}
    ),
    Ablation("consistency", "(b) consistency with anchor", {"method": "consistency"}),
)
STATE_KINDS = ("test", "shifted", "augmented", "far")


@dataclass(frozen=True)
class Budget:
    """How much each run may cost."""

    seeds: int
    students: tuple[int, ...]
    steps: int
    batch: int
    queries: int
    direct_steps: int
    states: int
    samples: int
    episodes: int
    variants: tuple[str, ...]


FULL = Budget(3, (1, 4), 2500, 256, 90_000, 5000, 64, 48, 30, tuple(entry.name for entry in ABLATIONS))
QUICK = Budget(2, (1,), 60, 64, 2000, 60, 12, 16, 2, ("full", "no_alignment", "direct"))


def torch_policy(name: str, network: Network, spec: PolicySpec, draws: int = 1) -> Policy:
    """A network on normalised values as a policy in SI units."""
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()

    @torch.no_grad()
    def actions(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(((observation - centre) / scale).astype(np.float32))
        answer = network(state, torch.from_numpy(noise.reshape(len(noise), draws, -1))).numpy()
        return answer.reshape(len(noise), spec.horizon, spec.act_dim) * action_scale + action_centre

    return Policy(name, (draws, spec.horizon, spec.act_dim), without_latent(actions))


def _as_sample(policy: Network, states: np.ndarray) -> Any:
    """A ``Sample`` of the fidelity evaluation from a torch policy on normalised states."""

    @torch.no_grad()
    def sample(noise: np.ndarray) -> np.ndarray:
        n = noise.shape[1]
        repeated = torch.from_numpy(np.repeat(states, n, axis=0))
        draws = torch.from_numpy(noise.reshape(len(repeated), noise.shape[2], -1))
        actions: np.ndarray = policy(repeated, draws).numpy().reshape(len(states), n, -1)
        return actions

    return sample


def _student_policy(student: Student) -> Network:
    return lambda state, draws: student(state, draws if student.draws > 1 else draws[:, 0])[0]


def _teacher_policy(teacher: DiffusionTeacher) -> Network:
    return lambda state, draws: teacher.sample(state, draws[:, 0])[0].clamp(-4.0, 4.0)


def _closed_loop(policy: Network, draws: int, run: Pipeline, scenario: str, n: int) -> int:
    """Successes of ``n`` episodes at 50 Hz."""
    driven = rollout(
        find_task(run.recipe.task),
        scenario,
        Driver(torch_policy("variant", policy, run.spec, draws)),
        range(7_000_000, 7_000_000 + n),
        spec=run.spec,
        values={"update_rate": 50.0},
    )
    return sum(episode.outcome.success for episode in driven)


@dataclass(frozen=True)
class _Task:
    recipe: Recipe
    folder: Path
    ablation: Ablation
    seed: int
    steps: int
    budget: Budget
    queries: Path

    @property
    def place(self) -> Path:
        return self.folder / "ablations" / self.ablation.name / f"seed{self.seed}_k{self.steps}"

    def __call__(self) -> dict[str, Any]:
        run = Pipeline(self.recipe, self.folder)
        budget = {**self.budget.__dict__, "variants": None, "seeds": None, "students": None}
        changes = [self.ablation.changes, self.ablation.direct]
        key = content_hash(run.completed("teacher"), changes, self.seed, self.steps, budget)
        done = self.place / "result.json"
        if done.exists() and (content := json.loads(done.read_text()))["key"] == key:
            row: dict[str, Any] = content["row"]
            return row
        if not (self.place / "key").exists() or (self.place / "key").read_text() != key:
            for file in self.place.glob("*"):
                file.unlink()
        write_file(self.place / "key", key.encode())
        row = self._direct(run) if self.ablation.direct else self._distilled(run)
        write_json(done, {"key": key, "row": row})
        return row

    def _distilled(self, run: Pipeline) -> dict[str, Any]:
        teacher = run.teacher()
        recipe = distill_recipe(self.recipe.distill, self.ablation, self.budget)
        queries = load_queries(self.queries)
        queries = queries.subset(torch.arange(self.seed % self.budget.seeds, len(queries), self.budget.seeds))
        student = distill(teacher, self.steps, queries, recipe, 100 + self.seed, self.place, lambda *_: None)

        def gap(states: np.ndarray) -> float:
            with torch.no_grad():
                state = torch.from_numpy(states)
                wanted = teacher.latent(state)
                distance = (wanted - student.aligned(state)).norm(dim=1).mean()
                return float(distance / (wanted - wanted.mean(dim=0)).norm(dim=1).mean())

        return self._measured(run, _student_policy(student), student.draws, gap)

    def _direct(self, run: Pipeline) -> dict[str, Any]:
        recipe = self.recipe.teacher.model_copy(
            update={"diffusion_steps": self.steps, "steps": self.budget.direct_steps}
        )
        data = samples(run.split().train, run.spec)
        policy = train_teacher(recipe, run.spec, data, 100 + self.seed, self.place, lambda *_: None)
        return self._measured(run, _teacher_policy(policy), 1, None)

    def _measured(
        self,
        run: Pipeline,
        policy: Network,
        draws: int,
        gap: Callable[[np.ndarray], float] | None,
    ) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for kind in STATE_KINDS:
            reference = load_reference(self.folder, kind)
            noise = reference.noise
            if draws > 1:
                extra = (*noise.shape[:2], draws - 1, *noise.shape[3:])
                fresh = np.random.default_rng(82).standard_normal(extra).astype(np.float32)
                noise = np.concatenate([noise, fresh], axis=2)
            matched = draws == 1 and not self.ablation.direct
            found = compare(reference, _as_sample(policy, reference.states)(noise), 0, matched)
            states[kind] = {
                "ratio_to_floor": found["ratio_to_floor"],
                "matched_noise_rmse": found["matched_noise_rmse"],
                "mode_coverage": found["mode_coverage"],
                "tv_lower": found["tv_lower"],
                "latent_distance": None if gap is None else gap(reference.states),
            }
        successes = {
            name: _closed_loop(policy, draws, run, name, self.budget.episodes) for name in ("nominal", "shifted")
        }
        return {
            "variant": self.ablation.name,
            "seed": self.seed,
            "K": self.steps,
            "states": states,
            "success_rate": {name: count / self.budget.episodes for name, count in successes.items()},
        }


def distill_recipe(base: DistillRecipe, ablation: Ablation, budget: Budget) -> DistillRecipe:
    """The recipe of one variant at the experiment's budget."""
    return DistillRecipe.model_validate(
        {
            **base.model_dump(),
            "students": budget.students,
            "steps": budget.steps,
            "batch": budget.batch,
            "queries": budget.queries,
            **ablation.changes,
        }
    )


def load_reference(folder: Path, kind: str) -> Reference:
    """The teacher's answers at held-out states of one kind, as ``prepare`` cached them."""
    with np.load(folder / "ablations" / f"reference_{kind}.npz") as saved:
        return Reference(**{name: saved[name] for name in saved.files})


def prepare(run: Pipeline, budget: Budget, report: Report) -> None:
    """Teacher, and its answers at the states that every variant is judged on."""
    run.run("teacher")
    folder = run.folder / "ablations"
    key = content_hash(run.completed("teacher"), budget.states, budget.samples)
    mark = folder / "reference.key"
    if mark.exists() and mark.read_text() == key:
        return
    teacher, spec = run.teacher(), run.spec
    task, network = find_task(run.recipe.task), _teacher_policy(teacher)
    centre, scale = spec.observation_normalisation()
    for index, kind in enumerate(STATE_KINDS):
        seen, augmentation = ("augmented", FAR) if kind == "far" else (kind, AUGMENTATION)
        raw = draw_states(task, spec, seen, budget.states, 5, torch_policy("teacher", network, spec), augmentation)
        states = (raw - centre) / scale
        shape = (1, spec.horizon, spec.act_dim)
        reference = make_reference(states, budget.samples, shape, _as_sample(network, states), 5)
        arrays = io.BytesIO()
        np.savez(arrays, **reference.__dict__)
        write_file(folder / f"reference_{kind}.npz", arrays.getvalue())
        report("reference", index + 1, len(STATE_KINDS), kind)
    write_file(mark, key.encode())


def prepare_queries(run: Pipeline, ablation: Ablation, budget: Budget) -> Path:
    """The cached teacher queries that a variant's recipe needs; variants with equal needs share them."""
    recipe = run.recipe.model_copy(update={"distill": distill_recipe(run.recipe.distill, ablation, budget)})
    place = run.folder / "ablations" / f"queries_{content_hash(recipe.queries)[:12]}"
    asking = Pipeline(recipe, place, report=run.report)
    asking.take_over(run.folder)
    asking.run("queries")
    return place / "queries.pt"


def t_interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of the mean of a few seeds by Student's t."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return [float(values.mean()) - half, float(values.mean()) + half]


METRICS = ("ratio_to_floor", "matched_noise_rmse", "latent_distance", "tv_lower", "mode_coverage")


def paired(values: list[float | None], full: list[float | None]) -> dict[str, Any]:
    """Mean of a few seeds, and of their differences to ``full`` seed by seed; None where a value is missing."""
    entry: dict[str, Any] = dict.fromkeys(("mean", "interval", "difference_to_full", "difference_interval"))
    if None in values:
        return entry
    found = np.array(values, dtype=float)
    entry |= {"mean": float(found.mean()), "interval": t_interval(found)}
    if len(full) == len(found) and None not in full:
        difference = found - np.array(full, dtype=float)
        entry |= {"difference_to_full": float(difference.mean()), "difference_interval": t_interval(difference)}
    return entry


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per variant and K: means over seeds, and paired differences to ``full``."""
    by_place = {(row["variant"], row["K"], row["seed"]): row for row in rows}
    lines = []
    for name, steps in dict.fromkeys((row["variant"], row["K"]) for row in rows):
        mine = [row for row in rows if (row["variant"], row["K"]) == (name, steps)]
        places = [("full", steps, row["seed"]) for row in mine]
        full = [by_place[place] for place in places if place in by_place]

        def entry(*path: str, mine: list[Any] = mine, full: list[Any] = full) -> dict[str, Any]:
            return paired(*([functools.reduce(operator.getitem, path, row) for row in part] for part in (mine, full)))

        lines.append(
            {
                "variant": name,
                "K": steps,
                "seeds": len(mine),
                "states": {kind: {metric: entry("states", kind, metric) for metric in METRICS} for kind in STATE_KINDS},
                "success_rate": {scenario: entry("success_rate", scenario) for scenario in ("nominal", "shifted")},
            }
        )
    return lines


def checks(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the paper expects of the ablations, held against the table: passed or not, with the numbers."""
    lines = {(line["variant"], line["K"]): line["states"] for line in table}
    values: dict[str, float] = {}
    for (variant, steps), states in lines.items():
        full = lines.get(("full", steps))
        if full is None or variant == "full":
            continue
        for kind in ("test", "shifted", "far"):
            mine, theirs = (of[kind]["ratio_to_floor"]["mean"] for of in (states, full))
            values[f"K = {steps}, {kind} states: {variant} over full (distance)"] = mine / theirs
        latent, own = (of["shifted"]["latent_distance"]["mean"] for of in (states, full))
        if variant == "no_alignment" and latent and own:
            values[f"K = {steps}: latent distance on shifted states without alignment over with"] = latent / own
    return [{"name": name, "passed": value > 1.0, "value": value, "bound": 1.0} for name, value in values.items()]


def draw(table: list[dict[str, Any]], picture: Path) -> None:
    """Distance to the teacher of every variant, with intervals, per kind of states and K."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    students = sorted({line["K"] for line in table})
    names = list(dict.fromkeys(line["variant"] for line in table))
    figure = Figure(figsize=(4.6 * len(STATE_KINDS), 0.32 * len(names) * len(students) + 1.5), layout="constrained")
    panels = figure.subplots(len(students), len(STATE_KINDS), squeeze=False, sharey="row")
    for row, steps in enumerate(students):
        lines = [line for line in table if line["K"] == steps]
        for column, kind in enumerate(STATE_KINDS):
            panel = panels[row][column]
            for height, line in enumerate(reversed(lines)):
                entry = line["states"][kind]["ratio_to_floor"]
                low, high = entry["interval"] or (entry["mean"], entry["mean"])
                panel.plot([max(low, 0.5), high], [height, height], color="#888", linewidth=2)
                panel.plot(entry["mean"], height, "o", color="#d55e00" if line["variant"] == "full" else "#0072b2")
            panel.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(FixedLocator([1.0, 1.2, 1.5, 2.0, 3.0, 4.0]))
            panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_yticks(range(len(lines)), [line["variant"] for line in reversed(lines)])
            panel.set_title(f"K = {steps}, {kind} states")
            panel.set_xlabel("distance to the teacher / floor")
    save_figure(figure, picture)


def ablations(
    recipe: RecipePath = None,
    set: Overrides = [],  # noqa: A002, B006
    quick: bool = False,
    seeds: int | None = None,
    run_folder: Path = Path("runs/pushing"),
    picture: Path = Path("results/experiment/ablations.png"),
    processes: int = 2,
) -> dict[str, Any]:
    """Section 8: which ingredient keeps the student at its teacher.

    Trains every variant with several seeds (about an hour on 2 cores; --quick: a minute) in the run folder of a
    pipeline; run it again to go on.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. distill.steps=5000; may be given again
        quick: two seeds, three variants, toy budget
        seeds: number of seeds (default 3)
        run_folder: of the pipeline
        picture: where the figure goes
        processes: how many work beside each other
    """
    report = ProgressPrinter()
    budget = QUICK if quick else FULL
    if seeds is not None:
        budget = replace(budget, seeds=seeds)
    run = Pipeline(load_recipe(shipped_recipe(recipe), set), run_folder, report=report)
    prepare(run, budget, report)
    tasks = []
    for ablation in ABLATIONS:
        if ablation.name not in budget.variants:
            continue
        queries = run.folder if ablation.direct else prepare_queries(run, ablation, budget)
        for steps in budget.students:
            if ablation.only_above_one and steps == 1:
                continue
            for seed in range(budget.seeds):
                tasks.append(_Task(run.recipe, run.folder, ablation, seed, steps, budget, queries))
    rows: list[dict[str, Any]] = []
    for row in run_parallel(tasks, processes):
        rows.append(row)
        ratio = row["states"]["shifted"]["ratio_to_floor"]
        report("ablations", len(rows), len(tasks), f"{row['variant']} K={row['K']}: {ratio:.2f} on shifted states")
    order = {name: index for index, name in enumerate(budget.variants)}
    rows.sort(key=lambda row: (row["K"], order[row["variant"]], row["seed"]))
    table = summarise(rows)
    draw(table, picture)
    _print(table)
    return {
        "quick": quick,
        "seed": run.recipe.seed,
        "budget": {name: value for name, value in budget.__dict__.items() if name != "variants"},
        "variants": {entry.name: entry.says for entry in ABLATIONS if entry.name in budget.variants},
        "checks": checks(table),
        "table": table,
        "rows": rows,
        "figures": [str(picture)],
    }


def _print(table: list[dict[str, Any]]) -> None:
    print(f"{'variant':<30} {'K':>2} {'test':>7} {'shifted':>8} {'far':>7} {'latent':>7} {'nominal':>8} {'shifted':>8}")
    for line in table:
        ratios = [line["states"][kind]["ratio_to_floor"]["mean"] for kind in ("test", "shifted", "far")]
        latent = line["states"]["shifted"]["latent_distance"]["mean"]
        success = [line["success_rate"][name]["mean"] for name in ("nominal", "shifted")]
        print(
            f"{line['variant']:<30} {line['K']:>2} {ratios[0]:>7.2f} {ratios[1]:>8.2f} {ratios[2]:>7.2f} "
            f"{'-' if latent is None else format(latent, '.3f'):>7} {success[0]:>8.1%} {success[1]:>8.1%}"
        )
    print("distances are multiples of the teacher-against-itself floor; latent: distance on shifted states, relative")
