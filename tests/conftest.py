from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from srdp_controller.engines.bundle import LatencyBudget, LoadedBundle, load_bundle
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
def make_budget():
    """A bundle's latency budget, as ``srdp eval budget`` would have measured it."""

    def make(delay_s: float, undelayed_age_s: float = 0.0) -> LatencyBudget:
        return LatencyBudget(
            policy="student_k1",
            scenario="nominal",
            update_rate_hz=100.0,
            episodes=100,
            share=0.9,
            delay_s=delay_s,
            interval_s=(delay_s, delay_s),
            undelayed_age_s=undelayed_age_s,
            longest_s=0.3,
        )

    return make


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    target = tmp_path / "bundle"
    shutil.copytree(MODEL, target)
    return target
