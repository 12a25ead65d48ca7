"""The command ``srdp init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
import yaml

from srdp_controller.errors import DatasetError, SrdpError
from srdp_controller.files import write_file
from srdp_controller.offline.data.bag import import_bags
from srdp_controller.offline.data.lerobot import open_lerobot
from srdp_controller.offline.dataset import read_d4rl, read_minari
from srdp_controller.offline.init.draft import DECIDE, Draft, recipe_text
from srdp_controller.offline.init.from_arrays import draft_from_arrays
from srdp_controller.offline.init.from_bag import Wanted, draft_from_bag
from srdp_controller.offline.init.from_graph import draft_from_graph
from srdp_controller.offline.init.urdf import read_urdf
from srdp_controller.offline.recipe import BagRecipe
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

UNKNOWN_RATE_HZ = 20.0
COLLECTED = 240  # episodes of an expert
FEW = 60  # episodes, where none are recorded yet
RECORD_LATER: dict[str, Any] = {"source": "bag", "dataset": "demonstrations", "normalise": "data"}


def init(
    name: Annotated[str, tyro.conf.Positional],
    bag: Path | None = None,
    lerobot: Path | None = None,
    minari: str = "",
    keys: tuple[str, ...] = (),
    d4rl: Path | None = None,
    graph: float = 0.0,
    gymnasium: str = "",
    expert: str = "",
    observe: tuple[str, ...] = (),
    command: tuple[str, ...] = (),
    tool: str = "",
    urdf: Path | None = None,
    tip: str = "",
    rate: float | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a spec and a recipe for a robot of your own, from what you have of it: give one source.

    ``--gymnasium`` goes with a dataset too (--lerobot, --minari, --d4rl): a robot that is also simulated.

    Args:
        name: of the task; no installed task needs to have it
        bag: an MCAP bag (`ros2 bag record`), or a folder of them
        lerobot: folder of a LeRobot dataset
        minari: id of a local Minari dataset
        keys: of its Dict observations, in this order (default: all)
        d4rl: D4RL-style HDF5 file
        graph: listen to this shell's ROS domain for so many seconds; demonstrations are recorded later
        gymnasium: an environment's id; who demonstrates there is its --expert, or a dataset beside it
        expert: of the environment, as module:Class (docs/own_task.md)
        observe: topics of the bag or graph that are observed (default: every sensor's)
        command: topics of it that are commanded on (default: those that look like it)
        tool: topic of the tool's pose in it: other poses in its frame are observed as seen from it
        urdf: limits of the joints, and the chain that says where they put the tool, observed where no --tool is
            (default: /robot_description of the bag or graph)
        tip: link of the URDF that is the tool (default: the one behind the most joints)
        rate: of the control loop's actions [Hz] (default: the data's)
        output: folder for spec.yaml and recipe.yaml (default: NAME)
        overwrite: replace files that are there
    """
    sources = {"--bag": bag, "--graph": graph, "--lerobot": lerobot, "--minari": minari, "--d4rl": d4rl}
    given = [option for option, value in sources.items() if value]
    if len(given) + bool(gymnasium and not given) != 1 or (gymnasium and (bag or graph)):
        got = " and ".join([*given, *(["--gymnasium"] if gymnasium else [])]) or "none"
        raise SrdpError(f"give one of {', '.join(sources)} and --gymnasium, which goes with a dataset too; got {got}")
    if expert and (not gymnasium or given):
        raise SrdpError("--expert demonstrates in a --gymnasium environment, where no dataset does")
    if (observe or command or tool or tip) and bag is None and not graph:
        raise SrdpError("--observe, --command, --tool and --tip choose what is observed of a --bag or --graph")
    if graph < 0.0:
        raise SrdpError(f"--graph {graph}: expected a positive number of seconds")
    if keys and not minari:
        raise SrdpError("--keys choose observations of a --minari dataset")
    if rate is not None and not rate > 0.0:
        raise SrdpError(f"--rate {rate}: expected a positive number of Hz")
    folder = output or Path(slug(name))
    spec_path, recipe_path = folder / "spec.yaml", folder / "recipe.yaml"
    for path in (spec_path, recipe_path):
        if path.exists() and not overwrite:
            raise SrdpError(f"{path} is there already; --overwrite replaces it, --output names another folder")
    if gymnasium:
        demonstrations = _Arrays.read(lerobot, minari, d4rl, keys) if given else None
        return _from_gymnasium(gymnasium, expert, demonstrations, spec_path, recipe_path)
    wanted = Wanted(observe, command, tool, tip, rate, read_urdf(urdf, tip) if urdf is not None else None)
    episodes, data = 0, RECORD_LATER
    if graph:
        draft = draft_from_graph(name, graph, wanted)
        text = draft.spec_text()
    elif bag is not None:
        draft = draft_from_bag(name, bag, wanted)
        text = draft.spec_text()
        spec = PolicySpec.model_validate(yaml.safe_load(text))
        print(f"reading {bag} as the controller would ...")
        episodes = len(import_bags(bag, spec, BagRecipe(), lambda *_: None).trajectories)
        data = {"source": "bag", "dataset": str(bag)}
    else:
        arrays = _Arrays.read(lerobot, minari, d4rl, keys)
        draft, episodes, data = _from_arrays(name, arrays, rate), len(arrays.episodes), arrays.data
        text = draft.spec_text()
    write_file(spec_path, text.encode())
    to_decide = "record demonstrations into this bag (docs/own_robot.md)" if graph else ""
    recipe = recipe_text(name, str(spec_path), data, episodes or FEW, draft.origin, to_decide=to_decide)
    write_file(recipe_path, recipe.encode())
    return _told(spec_path, recipe_path, episodes, later=graph > 0.0)


def _told(spec_path: Path, recipe_path: Path, episodes: int, later: bool = False) -> dict[str, Any]:
    decide = [line.strip() for path in (spec_path, recipe_path) for line in path.read_text().splitlines()]
    decide = [line for line in decide if f"# {DECIDE}" in line]
    print(f"{spec_path} and {recipe_path}: {episodes} episodes" if episodes else f"{spec_path} and {recipe_path}")
    for line in decide:
        print(f"  to decide: {line}")
    if later:
        print(f"next: record demonstrations, then `srdp init ... --bag BAG --output {spec_path.parent} --overwrite`")
    else:
        print(f"next: read {spec_path}, then `srdp check {recipe_path}`")
    return {"spec": str(spec_path), "recipe": str(recipe_path), "episodes": episodes, "decide": decide, "seed": 0}


class _Arrays(NamedTuple):
    """A dataset of numbers without topics: its episodes as (observations, actions), and the recipe's ``data``."""

    origin: str
    data: dict[str, Any]
    episodes: list[tuple[np.ndarray, np.ndarray]]
    observation: list[str]
    action: list[str]
    rate_hz: float | None

    @classmethod
    def read(cls, lerobot: Path | None, minari: str, d4rl: Path | None, keys: tuple[str, ...]) -> _Arrays:
        """The one of three that is named.

        Raises:
            DatasetError: it is missing, damaged or empty.
        """
        if lerobot is not None:
            dataset = open_lerobot(lerobot)
            pairs = [(seen, taken) for _, seen, taken in dataset.episodes()]
            data: dict[str, Any] = {"source": "lerobot", "dataset": str(lerobot)}
            return cls(str(lerobot), data, pairs, dataset.observation, dataset.action, dataset.rate_hz)
        read, observed = (list(read_d4rl(d4rl)), []) if d4rl is not None else read_minari(None, minari, keys=keys)
        pairs = [(episode["observation"], episode["action"]) for episode in read]
        if not pairs:
            raise DatasetError(f"{d4rl or minari}: the dataset is empty")
        observed = observed or [f"state_{place}" for place in range(np.shape(pairs[0][0])[-1])]
        acted = [f"action_{place}" for place in range(np.shape(pairs[0][1])[-1])]
        data = {"source": "minari" if d4rl is None else "d4rl", "dataset": str(d4rl or minari)}
        if keys:
            data |= {"keys": list(keys)}
        return cls(str(d4rl or minari), data, pairs, observed, acted, None)


def _from_arrays(name: str, arrays: _Arrays, rate: float | None) -> Draft:
    rate_hz, rate_from = arrays.rate_hz, "the dataset's fps"
    if rate is not None and rate_hz is not None and rate != rate_hz:
        raise SrdpError(f"--rate {rate:g}: the dataset is at {rate_hz:g} Hz, and is not resampled; leave --rate out")
    if rate_hz is None:
        unknown = f"{DECIDE}: the dataset does not say at what rate it was recorded"
        rate_hz, rate_from = (rate, "as you said") if rate is not None else (UNKNOWN_RATE_HZ, unknown)
    return draft_from_arrays(
        name,
        arrays.origin,
        np.concatenate([seen for seen, _ in arrays.episodes]).astype(float),
        np.concatenate([taken for _, taken in arrays.episodes]).astype(float),
        arrays.observation,
        arrays.action,
        rate_hz,
        rate_from,
    )


def _from_gymnasium(
    env_id: str, expert: str, demonstrations: _Arrays | None, spec_path: Path, recipe_path: Path
) -> dict[str, Any]:
    """The environment's own spec, and a recipe that collects in it or learns from a dataset of it."""
    task = f"gymnasium:{env_id}"
    spec = find_task(task).spec()
    collect = ""
    data: dict[str, Any] = {"normalise": "data"}
    episodes, origin = COLLECTED, env_id
    if demonstrations is None:
        why = "" if expert else f"  # {DECIDE}: who demonstrates (docs/own_task.md)"
        collect = f"collect: {{episodes: {COLLECTED}, expert: '{expert or 'module:Class'}'}}{why}"
    else:
        for what, found, expected in (
            ("observations", len(demonstrations.observation), spec.obs_dim),
            ("actions", len(demonstrations.action), spec.act_dim),
        ):
            if found != expected:
                raise SrdpError(f"{demonstrations.origin}: {found} {what}, {env_id} has {expected}")
        episodes, origin = len(demonstrations.episodes), demonstrations.origin
        data = {**demonstrations.data, **data}
    written = yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False, width=120)
    about = f"# What {task} observes and commands, for reading: the recipe asks the task.\n"
    write_file(spec_path, f"{about}{written}".encode())
    write_file(recipe_path, recipe_text(task, "", data, episodes, origin, collect).encode())
    return _told(spec_path, recipe_path, episodes if demonstrations is not None else 0)
