"""A LeRobot diffusion checkpoint as a teacher, and the spec in whose scales it reads and answers.

LeRobot's own classes make the network. The normalisation is read from the files: every version keeps it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import SrdpError
from srdp_controller.offline.data.lerobot import ACTION, STATES
from srdp_controller.offline.dataset import Scale, rescaled
from srdp_controller.offline.recipe import ObservationRecipe
from srdp_controller.policy.adapters import AdaptedTeacher, from_lerobot
from srdp_controller.spec import PolicySpec

WEIGHTS = "model.safetensors"
# statistics that the mode maps to -1 and 1
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
EPSILON = 1e-8  # LeRobot's, in place of a range or beside a deviation
# of the processors since 0.4: what changes no number, and what normalises
NEUTRAL = ("rename_observations_processor", "to_batch_processor", "device_processor")
NORMALISING = {"policy_preprocessor": "normalizer_processor", "policy_postprocessor": "unnormalizer_processor"}

Statistics = Mapping[str, np.ndarray]  # ``observation.state.min`` and the like
Normalisation = tuple[Mapping[str, str], Statistics]  # mode by kind of feature (STATE, ENV, ACTION)


def read_lerobot(folder: Path, spec: PolicySpec, observing: ObservationRecipe) -> tuple[AdaptedTeacher, PolicySpec]:
    """The policy of a checkpoint (``pretrained_model`` of a training) as a teacher, and its spec.

    The spec is ``spec`` with the checkpoint's history and scales. Its horizon may be as long as what the policy
    predicts from now on.

    Raises:
        SrdpError: LeRobot is not installed, the checkpoint is of another policy, with images or damaged, or it does not
            fit the spec or the recipe's ``observation``.
    """
    config = _json(folder / "config.json")
    if config.get("type") != "diffusion":
        raise SrdpError(
            f"{folder}: config.json says type {config.get('type')!r}; expected a LeRobot 'diffusion' policy"
        )
    inputs: dict[str, Any] = config.get("input_features") or {}
    other = [name for name in inputs if name not in STATES]
    if other:
        raise SrdpError(
            f"{folder}: it observes {', '.join(other)}; only {' and '.join(STATES)} can be adapted, no images"
        )
    sizes = {name: int(inputs[name]["shape"][0]) for name in STATES if name in inputs}
    actions = int(config["output_features"][ACTION]["shape"][0])
    sensors, steps = len(spec.sensor_indices()), int(config["n_obs_steps"])
    for what, found, expected in (("observes", sum(sizes.values()), sensors), ("commands", actions, spec.act_dim)):
        if found != expected:
            raise SrdpError(f"{folder}: it {what} {found} numbers, the spec {expected}")
    ahead = int(config["horizon"]) - steps + 1
    if spec.horizon > ahead:
        raise SrdpError(
            f"{folder}: of its {config['horizon']} actions {ahead} are from now on; set the spec's horizon, now "
            f"{spec.horizon}, to {ahead} or less"
        )
    if sensors != spec.obs_dim:
        raise SrdpError(
            f"{folder}: the spec must have sensors only; the checkpoint brings its history of {steps} steps"
        )
    asked = observing.observation_history
    if observing.command_history or observing.action_prefix or asked not in (0, steps - 1):
        raise SrdpError(
            f"{folder}: n_obs_steps is {steps}; set the recipe's observation.observation_history to {steps - 1} and "
            "command_history and action_prefix to 0, or leave the section out"
        )
    try:
        teacher = from_lerobot(_policy(folder), spec.horizon)
    except ValueError as error:
        raise SrdpError(f"{folder}: {error}") from None
    before, after = _normalisations(folder, config)
    seen = [scale for name, size in sizes.items() for scale in _scales(folder, name, size, before)]
    scaled = rescaled(spec.extended(steps - 1), seen, _scales(folder, ACTION, actions, after))
    print(
        f"{folder}: {steps} observations, a chunk of {spec.horizon} of its {config['horizon']} actions, from now on "
        f"(LeRobot executes {config['n_action_steps']}), {teacher.diffusion_steps} deterministic steps, its own scales"
    )
    return teacher, scaled


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SrdpError(f"{path}: not readable as JSON ({error})") from None
    return content


def _tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except Exception as error:  # the library raises types of its own
        raise SrdpError(f"{path}: not readable as safetensors ({error})") from None


def _policy(folder: Path) -> Any:
    """LeRobot's ``DiffusionPolicy``, on the processor, with every weight from the file."""
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    except ModuleNotFoundError as error:
        raise SrdpError(
            f"{folder}: a LeRobot checkpoint is read with LeRobot's own classes ({error.name} is missing): "
            "pip install 'srdp_controller[lerobot-policy]'"
        ) from None
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        config.device, config.compile_model = "cpu", False
        policy = DiffusionPolicy.from_pretrained(folder, config=config)
    except Exception as error:  # draccus, safetensors and torch raise types of their own
        raise SrdpError(f"{folder}: LeRobot cannot read it ({str(error).strip().splitlines()[0]})") from None
    # LeRobot leaves at random what the file lacks
    missing = sorted(set(policy.state_dict()) - set(_tensors(folder / WEIGHTS)))
    if missing:
        raise SrdpError(f"{folder / WEIGHTS}: it lacks {len(missing)} of the policy's weights, such as {missing[0]}")
    return policy


def _normalisations(folder: Path, config: Mapping[str, Any]) -> tuple[Normalisation, Normalisation]:
    """Of observations and of actions: of the processors' files (0.4 and later), or among the weights (before)."""
    if (folder / "policy_preprocessor.json").is_file():
        before, after = (_processor(folder, name) for name in NORMALISING)
        return before, after
    weights, modes = _tensors(folder / WEIGHTS), config.get("normalization_mapping") or {}

    def among(prefix: str) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name in (*STATES, ACTION):
            start = f"{prefix}.buffer_{name.replace('.', '_')}."
            found |= {f"{name}.{key.removeprefix(start)}": weights[key] for key in weights if key.startswith(start)}
        return found

    return (modes, among("normalize_inputs")), (modes, among("unnormalize_outputs"))


def _processor(folder: Path, name: str) -> Normalisation:
    modes: Mapping[str, str] = {}
    statistics: Statistics = {}
    for step in _json(folder / f"{name}.json").get("steps", []):
        kind = step.get("registry_name") or step.get("class")
        if kind == NORMALISING[name]:
            modes = step["config"]["norm_map"]
            statistics = _tensors(folder / step["state_file"]) if step.get("state_file") else {}
        elif kind not in NEUTRAL:
            raise SrdpError(f"{folder / name}.json: a step {kind!r}, which the bundle would not have; expected none")
    return modes, statistics


def _scales(folder: Path, name: str, size: int, normalisation: Normalisation) -> list[Scale]:
    """Centre and scale of a feature's numbers, as LeRobot (un)normalises them."""
    modes, statistics = normalisation
    kind = {STATES[0]: "STATE", STATES[1]: "ENV", ACTION: "ACTION"}[name]
    mode = modes.get(kind, "IDENTITY")
    if mode == "IDENTITY":
        return [{"centre": 0.0, "scale": 1.0}] * size
    wanted = ("mean", "std") if mode == "MEAN_STD" else RANGES.get(mode)
    if wanted is None:
        raise SrdpError(f"{folder}: {name} is normalised by {mode}; expected MEAN_STD, {', '.join(RANGES)} or IDENTITY")
    found = [statistics.get(f"{name}.{one}") for one in wanted]
    if any(one is None or one.size != size or not np.isfinite(one).all() for one in found):
        raise SrdpError(f"{folder}: it has no {' and '.join(wanted)} of {name} ({size} numbers), which {mode} needs")
    low, high = (np.asarray(one, np.float64).reshape(-1) for one in found if one is not None)
    centre, scale = (low, high) if mode == "MEAN_STD" else ((low + high) / 2.0, (high - low) / 2.0)
    if name == ACTION:
        scale = np.maximum(scale, EPSILON / 2.0)
    else:
        # a number that never changed: LeRobot makes -1 (or 0) of it, and of a deviation of 1e-6 two hundred. Here it
        # is the same where it does not change, and a deviation is itself
        still = scale == 0.0
        centre = np.where(still & (mode != "MEAN_STD"), low + 1.0, centre)
        scale = np.where(still, 1.0, scale + (EPSILON if mode == "MEAN_STD" else 0.0))
    return [{"centre": float(c), "scale": float(s)} for c, s in zip(centre, scale, strict=True)]
