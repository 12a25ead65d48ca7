"""Recipes: everything the offline pipeline needs to rebuild a bundle, one YAML per task."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srdp_controller.errors import SrdpError


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CollectRecipe(_Model):
    """The scripted expert's demonstrations."""

    scenario: str = "nominal"
    hole_scenario: str = Field(default="shifted", description="its regions are left out of the dataset")
    episodes: int = Field(default=1000, ge=1)
    disturbance: float = Field(default=0.05, ge=0.0, description="std of the executed perturbation [m/s]")
    disturbance_time_s: float = Field(default=0.4, gt=0.0, description="its correlation time")
    calibration_share: float = Field(default=0.15, gt=0.0, lt=0.5)
    test_share: float = Field(default=0.1, gt=0.0, lt=0.5)
    processes: int = Field(default=2, ge=1)


class NetworkRecipe(_Model):
    """Sizes of trunk, denoiser and reconstruction head."""

    trunk: tuple[int, ...] = (256, 256)
    latent: int = Field(default=64, ge=1)
    head: tuple[int, ...] = (256, 256, 256)
    time_features: int = Field(default=32, ge=2)


class TeacherRecipe(_Model):
    """Eq. 1 to 4 of the paper."""

    network: NetworkRecipe = NetworkRecipe()
    schedule: Literal["cosine", "variance_preserving", "linear"] = "cosine"
    diffusion_steps: int = Field(default=100, ge=2, description="T")
    reconstruction_weight: float = Field(default=0.1, ge=0.0, description="lambda of eq. 4")
    steps: int = Field(default=24_000, ge=1)
    batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)


class DistillRecipe(_Model):
    """Eq. 9 and 10: the composite loss's weights and the state distribution mu."""

    students: tuple[int, ...] = (1, 2, 4, 8)
    queries: int = Field(default=120_000, ge=1, description="cached teacher trajectories")
    augmented_share: float = Field(default=0.25, ge=0.0, le=1.0, description="alpha of section 4 (d)")
    augmentation_noise: float = Field(default=0.15, ge=0.0, description="std in normalised units")
    steps: int = Field(default=20_000, ge=1)
    batch: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warm_share: float = Field(default=0.6, ge=0.0, le=1.0, description="share of the steps on transitions, K > 1")
    terminal_weight: float = Field(default=1.0, ge=0.0, description="l_act of eq. 10")
    transition_weight: float = Field(default=1.0, ge=0.0, description="l_score: matched transitions, section 4 (a)")
    latent_weight: float = Field(default=0.1, ge=0.0, description="eta_z of eq. 10")
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    processes: int = Field(default=2, ge=1)


class CalibrateRecipe(_Model):
    """Split conformal thresholds of the latent distance."""

    alphas: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)


class Recipe(_Model):
    """One task's whole offline pipeline."""

    task: str
    seed: int = 0
    collect: CollectRecipe = CollectRecipe()
    teacher: TeacherRecipe = TeacherRecipe()
    distill: DistillRecipe = DistillRecipe()
    calibrate: CalibrateRecipe = CalibrateRecipe()


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
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
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise SrdpError(f"--set {override}: expected section.key=value")
        target = content
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SrdpError(f"{path}: field {where}: {first['msg']} (got {first.get('input')!r})") from None


def content_hash(*parts: Any) -> str:
    """SHA-256 (hex) of JSON-serialisable parts and pydantic models."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.model_dump(mode="json") if isinstance(part, BaseModel) else part
        digest.update(json.dumps(data, sort_keys=True).encode())
    return digest.hexdigest()
