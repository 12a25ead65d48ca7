"""The bundle: the only thing that crosses from offline to on line (``models/<task>/``).

``bundle.json`` names every file with its SHA-256 and carries the hash of its own content, so a
flipped byte anywhere is found before any parser sees the file. Nothing in a bundle is executable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError, field_validator

from srdp_controller.errors import BundleError, first_problem
from srdp_controller.files import write_json
from srdp_controller.spec import PolicySpec, Strict, from_schema_1

SCHEMA_VERSION = 2
OLDEST_SCHEMA = 1
# version -> what turns a verified manifest of that version into one of the next. A field that may be left out
# needs no new version; anything else does, with its migration here. Bundles on disk are never rewritten.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda content: {**content, "spec": from_schema_1(content["spec"])},
}
MANIFEST = "bundle.json"
UNIDENTIFIED = ("provenance", "latency_budget", "candidates", "content_sha256")
INPAINTING = "teacher_inpainting"  # the guided policy that goes on from the chunk in force
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_FILE_BYTES = 256 * 2**20


class FileEntry(Strict):
    """A file of the bundle, by name inside it and by hash."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value or not path.parts:
            raise ValueError("must be a path inside the bundle")
        return value


class PolicyEntry(FileEntry):
    """One policy: an ONNX graph from observation and noise to action and latents."""

    steps: int = Field(ge=1, description="K for a student, T for the teacher")
    evaluations: int = Field(ge=1, description="sequential evaluations of the denoiser per action")
    noise_shape: tuple[int, int, int] = Field(
        description="n_noise, steps, act_dim; a network may sample more steps than its action has"
    )
    latent_dim: int = Field(ge=1)
    guided: bool = Field(
        default=False,
        exclude_if=lambda guided: not guided,  # a bundle without any keeps the identity that it had
        description="takes `previous` and `weights` too: the rest of the chunk in force, how much each action binds",
    )


def corrector_shapes(spec: PolicySpec) -> dict[str, tuple[int, ...]]:
    """Shapes of a correction head's inputs and of its output, the last, at batch one, in the graph's order."""
    return {
        "observation": (1, spec.obs_dim),
        "base_action": (1, spec.act_dim),
        "origin": (1, spec.obs_dim),
        "index": (1, 1),
        "correction": (1, spec.act_dim),
    }


class LatencyBudget(Strict):
    """How late commands may be: measured in simulation by ``srdp eval budget``."""

    policy: str
    scenario: str
    update_rate_hz: float
    episodes: int = Field(ge=1, description="of each delay")
    share: float = Field(description="of the success without delay, below which it falls beyond the budget")
    delay_s: float = Field(
        ge=0.0, description="the budget: between a command and its effect, beside the scenario's own"
    )
    interval_s: tuple[float, float] = Field(description="95 % bootstrap interval of the budget")
    undelayed_age_s: float = Field(ge=0.0, description="median age of the observation behind a command, undelayed")
    longest_s: float = Field(description="the longest delay that was tried: a budget as long is a lower bound")

    @property
    def age_s(self) -> float:
        """Age of the observation behind a command at which the budget is used up [s]."""
        return self.undelayed_age_s + self.delay_s

    @property
    def text(self) -> str:
        """The budget in a sentence."""
        low, high = (1e3 * bound for bound in self.interval_s)
        least = "at least " if self.delay_s >= self.longest_s else ""
        return (
            f"latency budget: {least}{1e3 * self.delay_s:.0f} ms [{low:.0f}, {high:.0f}] of added delay, that is "
            f"observations {1e3 * self.age_s:.0f} ms old ({self.policy}, {self.scenario}, {self.episodes} episodes)"
        )


class CandidatesChoice(Strict):
    """How many chunks to sample in a cycle: chosen on calibration episodes by ``srdp eval candidates``."""

    candidates: int = Field(ge=1)
    scenario: str
    update_rate_hz: float
    episodes: int = Field(ge=1, description="of each number")
    successes: dict[int, int] = Field(description="by number of chunks")

    @property
    def text(self) -> str:
        """The choice in a sentence."""
        counts = ", ".join(f"{count} with {number}" for number, count in self.successes.items())
        chunks = "1 chunk" if self.candidates == 1 else f"{self.candidates} chunks"
        where = f"{self.scenario} at {self.update_rate_hz:g} Hz"
        return f"{chunks} a cycle ({where}, of {self.episodes} episodes succeeded {counts})"


class Bundle(Strict):
    """Content of ``bundle.json``."""

    schema_version: int
    task: str
    spec: PolicySpec
    policies: dict[str, PolicyEntry] = Field(min_length=1)
    calibration: FileEntry
    correctors: dict[str, FileEntry] = Field(
        default_factory=dict,
        exclude_if=lambda entries: not entries,  # a bundle without any keeps the identity that it had
        description="by the name of the policy whose late chunks it corrects",
    )
    latency_budget: LatencyBudget | None = Field(default=None, exclude_if=lambda budget: budget is None)
    candidates: dict[str, CandidatesChoice] = Field(
        default_factory=dict, exclude_if=lambda choices: not choices, description="by the policy's name"
    )
    provenance: dict[str, Any]

    def candidates_of(self, policy: str) -> int:
        """How many chunks a policy should sample in a cycle: one where nobody has chosen."""
        return self.candidates[policy].candidates if policy in self.candidates else 1


class PolicyCalibration(Strict):
    """Split conformal thresholds of one student's latent distance."""

    thresholds: dict[str, float] = Field(description="alpha as text -> threshold")
    median_score: float


class Calibration(Strict):
    """Content of the calibration file."""

    score: str
    unit: str = "one trajectory: at most a share alpha of fresh nominal trajectories raises any alarm"
    trajectories: int
    policies: dict[str, PolicyCalibration]

    def threshold(self, policy: str, alpha: float) -> float:
        """Threshold for a miscoverage ``alpha``: the calibrated one at or below it (conservative).

        Raises:
            BundleError: the policy was not calibrated, or alpha is below the smallest calibrated one.
        """
        entry = self.policies.get(policy)
        if entry is None:
            raise BundleError(
                f"policy {policy} has no calibration; run `srdp pipeline --last calibrate` or set abstain.enabled false"
            )
        usable = [float(key) for key in entry.thresholds if float(key) <= alpha + 1e-12]
        if not usable:
            possible = ", ".join(sorted(entry.thresholds, key=float))
            raise BundleError(
                f"abstain.alpha {alpha} is below the smallest that {self.trajectories} calibration trajectories were "
                f"calibrated for; set abstain.alpha to one of {possible}, or calibrate with more trajectories"
            )
        best = max(usable)
        return next(value for key, value in entry.thresholds.items() if float(key) == best)

    def smallest_alpha(self, wanted: float) -> float:
        """The smallest miscoverage at or above ``wanted`` that every calibrated policy has a threshold for."""
        return max([wanted, *(min(map(float, entry.thresholds)) for entry in self.policies.values())])


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the manifest last, so that a half-written bundle is never a valid one."""
    content = bundle.model_dump(mode="json")
    content["content_sha256"] = sha256(_canonical(content))
    write_json(folder / MANIFEST, content)


class LoadedBundle:
    """A bundle whose manifest was verified; its files are verified when they are read."""

    def __init__(self, folder: Path, content: Bundle, raw: bytes) -> None:
        self.folder = folder
        self.content = content
        self.raw = raw  # the manifest's bytes, which a signature signs

    @property
    def identity(self) -> str:
        """SHA-256 of everything that acts: spec, graphs, calibration, as the manifest was written.

        The same data, recipe and seed give the same identity on the same kind of machine. The provenance is left
        out, because times and versions cannot be reproduced; so are the latency budget and the numbers of chunks to
        sample, which were measured of what is identified. A bundle of an older schema keeps the identity it had then,
        since it is migrated in memory only.
        """
        written = json.loads(self.raw)
        return sha256(_canonical({key: value for key, value in written.items() if key not in UNIDENTIFIED}))

    @property
    def spec(self) -> PolicySpec:
        """What the bundle's policies observe and command."""
        return self.content.spec

    def policy(self, name: str) -> PolicyEntry:
        """Entry of a policy.

        Raises:
            BundleError: the bundle has no such policy; the message lists those it has.
        """
        entry = self.content.policies.get(name)
        if entry is None:
            known = ", ".join(self.content.policies)
            raise BundleError(f"{self.folder}: no policy {name!r}; the bundle has: {known}")
        return entry

    def corrector(self, name: str) -> FileEntry:
        """Entry of the head that corrects a policy's late chunks.

        Raises:
            BundleError: there is none; the message says how to get one.
        """
        entry = self.content.correctors.get(name)
        if entry is None:
            known = ", ".join(self.content.correctors) or "none"
            raise BundleError(
                f"{self.folder}: no correction head for {name!r} (for: {known}); rebuild the bundle with "
                f"`srdp pipeline --set 'corrector.policies=[{name}]'`, or choose another planning.mode"
            )
        return entry

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a policy's inputs and outputs at batch one, in the graph's order.

        The inputs are ``observation`` and ``noise``, and of a guided policy ``previous`` and ``weights``.
        """
        entry, spec = self.policy(name), self.spec
        guidance = {"previous": (1, spec.horizon, spec.act_dim), "weights": (1, spec.horizon)} if entry.guided else {}
        return {
            "observation": (1, spec.obs_dim),
            "noise": (1, *entry.noise_shape),
            **guidance,
            "action": (1, spec.horizon, spec.act_dim),
            "latent": (1, entry.latent_dim),
            "teacher_latent": (1, entry.latent_dim),
        }

    def read(self, entry: FileEntry) -> bytes:
        """Bytes of a file, verified against its hash before anything parses them.

        Raises:
            BundleError: missing, a link out of the bundle, too large, or another hash.
        """
        path = self.folder / entry.file
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise BundleError(f"{path}: points outside the bundle")
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise BundleError(f"{path}: {size} bytes, more than the {MAX_FILE_BYTES} allowed")
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}; the bundle is incomplete") from None
        found = sha256(data)
        if found != entry.sha256:
            raise BundleError(
                f"{path}: damaged: SHA-256 is {found[:12]}..., bundle.json says {entry.sha256[:12]}...; "
                "copy the bundle again or rebuild it with `make bundle`"
            )
        return data

    def read_all(self) -> dict[str, bytes]:
        """Every file of the bundle, the manifest too, by name and verified; errors as in ``read``."""
        content = self.content
        entries = [*content.policies.values(), *content.correctors.values(), content.calibration]
        return {entry.file: self.read(entry) for entry in entries} | {MANIFEST: self.raw}

    def calibration(self) -> Calibration:
        """The verified calibration."""
        data = self.read(self.content.calibration)
        try:
            return Calibration.model_validate_json(data)
        except ValidationError as error:
            raise BundleError(f"{self.folder / self.content.calibration.file}: {first_problem(error)}") from None


def load_bundle(folder: str | Path) -> LoadedBundle:
    """Read and verify ``bundle.json``.

    Raises:
        BundleError: missing, damaged, of another schema version, or a field is wrong.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes; not a bundle manifest")
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}; expected a bundle folder such as models/pushing"
        ) from None
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); the file is damaged") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected a JSON object")
    version = content.get("schema_version")
    if type(version) is not int or not OLDEST_SCHEMA <= version <= SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        remedy = "update srdp_controller" if newer else "re-export it"
        raise BundleError(
            f"{path}: schema version {version!r}, this controller reads {OLDEST_SCHEMA} to {SCHEMA_VERSION}; {remedy}"
        )
    claimed = content.pop("content_sha256", None)
    if claimed != sha256(_canonical(content)):
        raise BundleError(f"{path}: damaged: its content does not match content_sha256; copy the bundle again")
    try:
        for earlier in range(version, SCHEMA_VERSION):
            content = {**MIGRATIONS[earlier](content), "schema_version": earlier + 1}
        return LoadedBundle(folder, Bundle.model_validate(content), raw)
    except ValidationError as error:
        raise BundleError(f"{path}: {first_problem(error)}") from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:  # a migration meets what it does not know
        raise BundleError(f"{path}: not a manifest of schema {version} ({type(error).__name__}: {error})") from None
