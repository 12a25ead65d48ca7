"""The command ``srdp init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.offline.data.bag import import_bags
from srdp_controller.offline.data.lerobot import open_lerobot
from srdp_controller.offline.dataset import read_d4rl, read_minari
from srdp_controller.offline.init.draft import DECIDE, Draft, recipe_text
from srdp_controller.offline.init.from_arrays import draft_from_arrays
from srdp_controller.offline.init.from_bag import draft_from_bag
from srdp_controller.offline.init.urdf import read_urdf
from srdp_controller.offline.recipe import BagRecipe
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

UNKNOWN_RATE_HZ = 20.0


def init(
    name: Annotated[str, tyro.conf.Positional],
    bag: Path | None = None,
    lerobot: Path | None = None,
    minari: str = "",
    d4rl: Path | None = None,
    gymnasium: str = "",
    observe: tuple[str, ...] = (),
    command: tuple[str, ...] = (),
    tool: str = "",
    urdf: Path | None = None,
    rate: float | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a spec and a recipe for a robot of your own, from what you have of it; give one of the five sources.

    Args:
        name: of the task; no installed task needs to have it
        bag: an MCAP bag (`ros2 bag record`), or a folder of them
        lerobot: folder of a LeRobot dataset
        minari: id of a local Minari dataset
        d4rl: D4RL-style HDF5 file
        gymnasium: an environment's id; there an expert demonstrates
        observe: topics of the bag that are observed (default: every sensor's)
        command: topics of the bag that the demonstrator commanded on (default: those that look like it)
        tool: topic of the tool's pose in the bag: other poses in its frame are observed as seen from it
        urdf: limits of the joints
        rate: of the control loop's actions [Hz] (default: the data's)
        output: folder for spec.yaml and recipe.yaml (default: NAME)
        overwrite: replace files that are there
    """
    sources = {"--bag": bag, "--lerobot": lerobot, "--minari": minari, "--d4rl": d4rl, "--gymnasium": gymnasium}
    given = [option for option, value in sources.items() if value]
    if len(given) != 1:
        raise SrdpError(f"give one of {', '.join(sources)}; got {' and '.join(given) or 'none'}")
    if (observe or command or tool) and bag is None:
        raise SrdpError("--observe, --command and --tool choose topics of a --bag")
    if rate is not None and not rate > 0.0:
        raise SrdpError(f"--rate {rate}: expected a positive number of Hz")
    folder = output or Path(slug(name))
    spec_path, recipe_path = folder / "spec.yaml", folder / "recipe.yaml"
    for path in (spec_path, recipe_path):
        if path.exists() and not overwrite:
            raise SrdpError(f"{path} is there already; --overwrite replaces it, --output names another folder")
    if gymnasium:
        return _from_gymnasium(gymnasium, spec_path, recipe_path)
    limits = read_urdf(urdf) if urdf is not None else None
    if bag is not None:
        draft = draft_from_bag(name, bag, observe, command, tool, rate, limits)
        text = draft.spec_text()
        spec = PolicySpec.model_validate(yaml.safe_load(text))
        print(f"reading {bag} as the controller would ...")
        episodes = len(import_bags(bag, spec, BagRecipe(), lambda *_: None).trajectories)
        data = {"source": "bag", "dataset": str(bag)}
    else:
        draft, episodes, data = _from_arrays(name, lerobot, minari, d4rl, rate)
        text = draft.spec_text()
    write_file(spec_path, text.encode())
    write_file(recipe_path, recipe_text(name, str(spec_path), data, episodes, draft.origin).encode())
    return _told(spec_path, recipe_path, episodes)


def _told(spec_path: Path, recipe_path: Path, episodes: int) -> dict[str, Any]:
    decide = [line.strip() for path in (spec_path, recipe_path) for line in path.read_text().splitlines()]
    decide = [line for line in decide if f"# {DECIDE}" in line]
    print(f"{spec_path} and {recipe_path}: {episodes} episodes" if episodes else f"{spec_path} and {recipe_path}")
    for line in decide:
        print(f"  to decide: {line}")
    print(f"next: read {spec_path}, then `srdp check {recipe_path}`")
    return {"spec": str(spec_path), "recipe": str(recipe_path), "episodes": episodes, "decide": decide, "seed": 0}


def _from_arrays(
    name: str, lerobot: Path | None, minari: str, d4rl: Path | None, rate: float | None
) -> tuple[Draft, int, dict[str, Any]]:
    """Draft, number of episodes and the recipe's ``data``."""
    data: dict[str, Any]
    if lerobot is not None:
        dataset = open_lerobot(lerobot)
        pairs = [(seen, taken) for _, seen, taken in dataset.episodes()]
        observed, acted, rate_hz, rate_from = dataset.observation, dataset.action, dataset.rate_hz, "the dataset's fps"
        origin, data = str(lerobot), {"source": "lerobot", "dataset": str(lerobot)}
    else:
        if d4rl is not None:
            pairs = [(episode["observation"], episode["action"]) for episode in read_d4rl(d4rl)]
            origin, data = str(d4rl), {"source": "d4rl", "dataset": str(d4rl)}
        else:
            pairs = [(episode["observation"], episode["action"]) for episode in read_minari(None, minari)]
            origin, data = minari, {"source": "minari", "dataset": minari}
        rate_hz, rate_from = UNKNOWN_RATE_HZ, f"{DECIDE}: the dataset does not say at what rate it was recorded"
        shapes = (np.shape(pairs[0][0])[-1], np.shape(pairs[0][1])[-1])
        observed, acted = (
            [f"{what}_{i}" for i in range(n)] for what, n in zip(("state", "action"), shapes, strict=True)
        )
    if rate is not None:
        if lerobot is not None and rate != rate_hz:
            raise SrdpError(
                f"--rate {rate:g}: the dataset is at {rate_hz:g} Hz, and is not resampled; leave --rate out"
            )
        rate_hz, rate_from = rate, "as you said"
    draft = draft_from_arrays(
        name,
        origin,
        np.concatenate([seen for seen, _ in pairs]).astype(float),
        np.concatenate([taken for _, taken in pairs]).astype(float),
        observed,
        acted,
        rate_hz,
        rate_from,
    )
    return draft, len(pairs), data


def _from_gymnasium(env_id: str, spec_path: Path, recipe_path: Path) -> dict[str, Any]:
    """The environment's own spec, and a recipe that collects in it."""
    task = f"gymnasium:{env_id}"
    spec = find_task(task).spec()
    written = yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False, width=120)
    write_file(
        spec_path, f"# What {task} observes and commands, for reading: the recipe asks the task.\n{written}".encode()
    )
    lines = recipe_text(task, "", {"normalise": "data"}, 240, env_id).splitlines()
    expert = f"collect: {{episodes: 240, expert: 'module:Class'}}  # {DECIDE}: who demonstrates (docs/own_task.md)"
    write_file(recipe_path, "\n".join([*lines[:2], expert, *lines[2:], ""]).encode())
    return _told(spec_path, recipe_path, 0)
