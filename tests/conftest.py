from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.spec import PolicySpec

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "pushing"


@pytest.fixture(scope="session")
def model_dir() -> Path:
    return MODEL


@pytest.fixture(scope="session")
def bundle() -> LoadedBundle:
    return load_bundle(MODEL)


@pytest.fixture(scope="session")
def spec(bundle: LoadedBundle) -> PolicySpec:
    return bundle.spec


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    target = tmp_path / "bundle"
    shutil.copytree(MODEL, target)
    return target
