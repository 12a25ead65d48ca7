"""The shipped recipes, each with a few steps on a few episodes."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.offline.pipeline import pipeline_command
from srdp_controller.offline.recipe import load_recipe

EXPORT = Path(__file__).resolve().parents[2] / "export"
RECIPES = sorted(EXPORT.rglob("*.yaml"))
METAWORLD = [path for path in RECIPES if path.parent.name == "metaworld"]


def quick(recipe, folder, **options):
    for extra, module in (("metaworld", "metaworld"), ("pusht", "gym_pusht")):
        if extra in str(recipe):
            pytest.importorskip(module, reason=f"needs the extra {extra}: make setup-test")
    return pipeline_command(recipe, run_folder=folder, quick=True, **options)


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {*METAWORLD[1:]}), ids=lambda path: path.stem)
def test_every_kind_of_shipped_recipe_makes_a_bundle(recipe, tmp_path):
    result = quick(recipe, tmp_path)
    bundle = load_bundle(tmp_path / "quick" / "bundle")
    assert result["bundle_sha256"] == bundle.identity
    assert set(bundle.content.policies) == {"teacher", "student_k1"}


@pytest.mark.parametrize("recipe", METAWORLD[1:], ids=lambda path: path.stem)
def test_metaworlds_other_recipes_differ_in_their_task_and_collect_train_and_distil(recipe, tmp_path):
    first, content = (load_recipe(path).model_dump(mode="json") for path in (METAWORLD[0], recipe))
    assert {name for name in content if content[name] != first[name]} <= {"task", "teacher", "calibrate"}
    assert content["teacher"]["network"] == first["teacher"]["network"]  # so their export is the same
    assert list(quick(recipe, tmp_path, last="calibrate")["stages"])[-1] == "calibrate"
