"""The shipped recipes, each with a few steps on a few episodes."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.offline.pipeline import pipeline_command

EXPORT = Path(__file__).resolve().parents[2] / "export"
RECIPES = sorted(EXPORT.rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_makes_a_bundle(recipe, tmp_path):
    for extra, module in (("metaworld", "metaworld"), ("pusht", "gym_pusht")):
        if extra in str(recipe):
            pytest.importorskip(module, reason=f"needs the extra {extra}: make setup-test")
    result = pipeline_command(recipe, run_folder=tmp_path, quick=True)
    bundle = load_bundle(tmp_path / "quick" / "bundle")
    assert result["bundle_sha256"] == bundle.identity
    assert set(bundle.content.policies) == {"teacher", "student_k1"}
