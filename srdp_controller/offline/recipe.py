"""Recipes: everything the offline pipeline needs to rebuild a bundle, one YAML per task.

A stage of the pipeline is done again when the recipe sections that it reads have changed. A field marked
``UNHASHED`` changes no result (how many processes work) and so never causes that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from srdp_controller.errors import SrdpError, all_problems
from srdp_controller.spec import PolicySpec, Strict, load_spec
from srdp_controller.tasks.task import find_task

UNHASHED = "changes no result"
Processes = Annotated[int, Field(ge=1), UNHASHED]


class CollectRecipe(Strict):
    """An expert's demonstrations, recorded in the task's own world."""

    scenario: str = "nominal"
    hole_scenario: str = Field(default="", description="its regions are left out of the dataset; empty: nothing is")
    expert: str = Field(default="", description="module:Class of an expert; empty: the task's own")
    episodes: int = Field(default=1000, ge=1)
    disturbance: float = Field(
        default=0.1, ge=0.0, description="std of the executed perturbation, in units of each action's scale"
    )
    disturbance_time_s: float = Field(default=0.4, gt=0.0, description="its correlation time")
    keep: Literal["all", "successes"] = Field(
        default="all", description="successes: what the expert failed at is left out, and counted"
    )
    processes: Processes = 2


class SplitRecipe(Strict):
    """Shares of the trajectories that are kept from training."""

    calibration_share: float = Field(default=0.15, gt=0.0, lt=0.5)
    test_share: float = Field(default=0.1, gt=0.0, lt=0.5)


class ObservationRecipe(Strict):
    """What the policy sees beside the sensors: past observations, its own past and committed commands."""

    observation_history: int = Field(default=0, ge=0, le=20, description="past observations, a control step apart")
    command_history: int = Field(default=0, ge=0, le=20, description="past commands, one control step apart")
    history_dropout: float = Field(
        default=0.3, ge=0.0, le=1.0, description="share of training samples whose history is hidden (zeros)"
    )
    action_prefix: int = Field(
        default=0, ge=0, description="committed actions that a chunk can be conditioned on (training-time prefix)"
    )


class MarkerRecipe(Strict):
    """A number in a bag that is not zero while an episode runs (a button, a flag)."""

    topic: str = Field(min_length=1)
    type: str = Field(pattern=r"^\w+/msg/\w+$")
    field: str


class BagRecipe(Strict):
    """How MCAP bags become episodes of observations and actions."""

    time: Literal["arrival", "stamp"] = Field(
        default="arrival",
        description="when a message counts as there: when the recorder received it, as a controller beside it would "
        "have, or when its header says that it was measured (topics without a header: when it was received)",
    )
    episodes: Literal["auto", "topic", "marker", "calls", "gaps", "file"] = Field(
        default="auto",
        description="topic: /episode (std_msgs/Header, frame_id begin or end) says; marker: a number; calls: any "
        "message on the topics begin and end; gaps: pauses of all sensors; file: a bag each; auto: marker or calls "
        "where they are given, topic where it is recorded, else file",
    )
    marker: MarkerRecipe | None = None
    begin: str = Field(
        default="", description="topic, a service's /NAME/_service_event too, each message of which begins an episode"
    )
    end: str = Field(default="", description="likewise for its end; empty: the next begin, or the bag's end")
    gap: float = Field(default=0.5, gt=0.0, description="s; without sensors for so long, an episode ends")
    actions: Literal["commands", "motion"] = Field(
        default="commands", description="motion: what was measured a step later, for demonstrations led by hand"
    )
    commands: dict[str, str] = Field(
        default_factory=dict, description="topics of the demonstrator's commands by action group, where not the spec's"
    )

    @model_validator(mode="after")
    def _fits(self) -> BagRecipe:
        if self.episodes == "marker" and self.marker is None:
            raise ValueError("episodes: marker needs marker: {topic, type, field}")
        if (self.episodes == "calls" or self.end) and not self.begin:
            raise ValueError("episodes: calls needs begin: the topic whose messages begin one")
        if self.begin and self.marker is not None:
            raise ValueError("give marker, or begin and end, not both")
        return self


class DataRecipe(Strict):
    """Where the demonstrations come from."""

    source: Literal["collect", "minari", "d4rl", "bag", "lerobot"] = "collect"
    dataset: str = Field(
        default="",
        description="Minari dataset id; path of a D4RL-style HDF5 file, or of an MCAP bag or a folder of them",
    )
    bag: BagRecipe = BagRecipe()
    keys: tuple[str, ...] = Field(
        default=(), description="of a Minari dataset's Dict observations, in this order; empty: all, in the dataset's"
    )
    download: bool = Field(default=False, description="fetch a Minari dataset from the hub when it is not local")
    spec: str = Field(default="", description="PolicySpec (JSON or YAML file); empty: the task's own")
    normalise: Literal["spec", "data"] = Field(
        default="spec", description="centre and scale: the spec's, or those of the training trajectories"
    )


class NetworkRecipe(Strict):
    """Sizes of trunk, denoiser and reconstruction head (as wide as the denoiser's first layer)."""

    trunk: tuple[int, ...] = (256, 256)
    latent: int = Field(default=64, ge=1)
    head: tuple[int, ...] = (256, 256, 256)
    unet: tuple[int, ...] = Field(
        default=(),
        description="channels of each level of a conditional U-Net over the horizon, in place of the MLP as denoiser; "
        "the first of head is then the size of its condition",
    )
    time_features: int = Field(default=32, ge=2)


class CriticRecipe(Strict):
    """Diffusion-QL's critic: twin Q on action chunks, from the dataset's rewards."""

    enabled: bool = False
    guidance_weight: float = Field(default=0.0, ge=0.0, description="eta of the Q-guided policy loss")
    best_of: int = Field(default=1, ge=1, description="max-Q: the best of so many samples is the guided action")
    discount: float = Field(default=0.97, gt=0.0, lt=1.0, description="gamma per control step")
    steps: int = Field(default=10_000, ge=1, description="of critic training before it guides the policy")
    policy_steps: int = Field(default=10_000, ge=1, description="of guided training after it")
    batch: int = Field(default=256, ge=1)
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = Field(default=3e-4, gt=0.0)
    target_decay: float = Field(default=0.995, ge=0.0, lt=1.0)
    next_action_steps: int = Field(default=5, ge=1, description="DDIM steps for the next chunk in the target")


class TeacherRecipe(Strict):
    """Eq. 1 to 4 of the paper."""

    network: NetworkRecipe = NetworkRecipe()
    trunk_input: Literal["state", "state_action_time"] = Field(
        default="state", description="z = f(s), or the original SRDP's f(a_t, t, s)"
    )
    prediction: Literal["epsilon", "v"] = "epsilon"
    schedule: Literal["cosine", "variance_preserving", "linear"] = "cosine"
    diffusion_steps: int = Field(default=100, ge=1, description="T")
    reconstruction_weight: float = Field(default=0.1, ge=0.0, description="lambda of eq. 4")
    steps: int = Field(default=24_000, ge=1)
    batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    threads: int = Field(default=1, ge=1, description="of its training; with others sums round otherwise")
    storage: Literal["float32", "float16"] = Field(
        default="float32", description="of its weights in the bundle; it computes in float32 either way"
    )
    critic: CriticRecipe = CriticRecipe()


class QueryRecipe(Strict):
    """What the teacher is asked before any student is trained: at how many states, and which (mu)."""

    students: tuple[int, ...] = Field(default=(1, 2, 4, 8), description="step counts K; none: the teacher only")
    queries: int = Field(default=120_000, ge=1, description="cached teacher trajectories")
    chain_steps: int | None = Field(
        default=None, ge=1, description="DDIM steps of the teacher on each (and one at each student's levels); none: T"
    )
    augmented_share: float = Field(default=0.25, ge=0.0, le=1.0, description="alpha of section 4 (d)")
    augmentation_noise: float = Field(default=0.15, ge=0.0, description="std in normalised units")


class DistillRecipe(QueryRecipe):
    """Eq. 9 and 10: the students, their training, and the composite loss's weight."""

    method: Literal["trajectory", "consistency"] = Field(
        default="trajectory",
        description="trajectory: section 4 (a), teacher chains, then the whole chain; consistency: section 4 (b)",
    )
    # the student
    network: NetworkRecipe | None = Field(default=None, description="None: the teacher's, started from its weights")
    trunk: Literal["trainable", "frozen"] = "trainable"
    # the training
    steps: int = Field(default=20_000, ge=1)
    batch: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warm_share: float = Field(default=0.6, ge=0.0, le=1.0, description="share of the steps on transitions, K > 1")
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    # the composite loss, eq. 10
    latent_weight: float = Field(default=0.1, ge=0.0, description="eta_z of eq. 10, beside the action loss")
    anchor_weight: float = Field(default=1.0, ge=0.0, description="lambda_anc of the consistency method")
    consistency_levels: int = Field(default=20, ge=2, description="noise levels of the consistency method")
    processes: Processes = 2

    @field_validator("network")
    @classmethod
    def _no_unet(cls, network: NetworkRecipe | None) -> NetworkRecipe | None:
        if network is not None and network.unet:
            raise ValueError("a student's own network is an MLP; leave network out to start from the teacher's U-Net")
        return network


class InpaintingRecipe(Strict):
    """The teacher that goes on from the chunk in force (real-time chunking): one more policy of the bundle."""

    steps: int = Field(default=0, ge=0, description="DDIM steps, each with its backward pass; 0: no such policy")
    largest_weight: float = Field(default=5.0, gt=0.0, description="beta: bound of the guidance where little is signal")


class CorrectorRecipe(Strict):
    """The head that corrects each action of a late chunk from the newest observation (``planning.mode: corrected``)."""

    policies: tuple[str, ...] = Field(
        default=(),
        description="whose chunks it learns to correct: teacher, student_k1, ...; none: there is no such head",
    )
    states: int | None = Field(
        default=20_000, ge=1, description="of the demonstrations, from which chunks are drawn; none: all of them"
    )
    candidates: int = Field(
        default=4, ge=1, description="chunks drawn at a state; the one nearest to what was demonstrated is corrected"
    )
    sampling_steps: int = Field(
        default=20, ge=1, description="DDIM steps of a teacher that draws them; all T take long"
    )
    hidden: tuple[int, ...] = (256, 256)
    steps: int = Field(default=10_000, ge=1)
    batch: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)


class CalibrateRecipe(Strict):
    """Split conformal thresholds of the latent distance."""

    alphas: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(
        default=(0.01, 0.02, 0.05, 0.1, 0.2), min_length=1
    )


class Recipe(Strict):
    """One task's whole offline pipeline."""

    task: str
    seed: int = 0
    data: DataRecipe = DataRecipe()
    collect: CollectRecipe = CollectRecipe()
    split: SplitRecipe = SplitRecipe()
    observation: ObservationRecipe = ObservationRecipe()
    teacher: TeacherRecipe = TeacherRecipe()
    distill: DistillRecipe = DistillRecipe()
    corrector: CorrectorRecipe = CorrectorRecipe()
    inpainting: InpaintingRecipe = InpaintingRecipe()
    calibrate: CalibrateRecipe = CalibrateRecipe()

    @property
    def queries(self) -> QueryRecipe:
        """The part of ``distill`` that says what the teacher is asked."""
        return QueryRecipe.model_validate(self.distill.model_dump(include=set(QueryRecipe.model_fields)))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; ``overrides`` are ``section.key=value`` with YAML values.

    Raises:
        SrdpError: the file is missing, not YAML, or a field is unknown or out of range.
    """
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise SrdpError(f"{path}: no such recipe; the shipped ones lie in export/") from None
    except yaml.YAMLError as error:
        raise SrdpError(f"{path}: not valid YAML: {error}") from None
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise SrdpError(f"--set {override}: expected section.key=value")
        target = content
        *parents, last = key.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise SrdpError(f"{path}: {'; '.join(all_problems(error, Recipe))}") from None


def base_spec(recipe: Recipe) -> PolicySpec:
    """The spec of ``data.spec`` or of the task.

    Raises:
        SrdpError: no such task, or the spec is wrong.
    """
    path = recipe.data.spec
    return load_spec(Path(path)) if path else find_task(recipe.task).spec()


def extended_spec(recipe: Recipe) -> PolicySpec:
    """``base_spec`` with the recipe's histories and prefix, in its own scales.

    Raises:
        SrdpError: as of ``base_spec``, or a history or prefix does not fit it.
    """
    observing, spec = recipe.observation, base_spec(recipe)
    try:
        return spec.extended(observing.observation_history, observing.command_history, observing.action_prefix)
    except ValueError as error:
        raise SrdpError(f"recipe section observation does not fit the spec: {error}") from None


def content_hash(*parts: Any) -> str:
    """SHA-256 (hex) of JSON-serialisable parts and pydantic models, without their ``UNHASHED`` fields."""
    return hashlib.sha256(json.dumps([_plain(part) for part in parts], sort_keys=True).encode()).hexdigest()


def _plain(part: Any) -> Any:
    if isinstance(part, BaseModel):
        fields = type(part).model_fields.items()
        return {name: _plain(getattr(part, name)) for name, field in fields if UNHASHED not in field.metadata}
    if isinstance(part, dict):
        return {str(key): _plain(value) for key, value in part.items()}
    return [_plain(value) for value in part] if isinstance(part, list | tuple) else part
