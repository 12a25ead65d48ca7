from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from box import BOX_BUNDLE
from hypothesis import HealthCheck, settings

from srdp_controller.engines.bundle import LatencyBudget, LoadedBundle, load_bundle
from srdp_controller.spec import PolicySpec

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # a slow machine is no failed test


@pytest.fixture(scope="session")
def shipped_dir() -> Path:
    """The bundle that ``make demo`` runs."""
    return ROOT / "models" / "pushing"


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The slow box's bundle: its teacher is a small MLP, so that a test can afford thousands of its actions."""
    return BOX_BUNDLE


@pytest.fixture(scope="session")
def bundle() -> LoadedBundle:
    return load_bundle(BOX_BUNDLE)


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
def bundle_copy(tmp_path: Path, model_dir: Path) -> Path:
    """A bundle that a test may damage."""
    target = tmp_path / "bundle"
    shutil.copytree(model_dir, target)
    return target
