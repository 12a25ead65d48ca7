"""A bundle's teacher, read back from its graph, is the network that was exported."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

import torch
import yaml

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.offline.bundled_teacher import TimeTable, read_teacher
from srdp_controller.offline.pipeline import pipeline_command
from srdp_controller.offline.queries import load_queries
from srdp_controller.offline.recipe import TeacherRecipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_a_unet_is_read_with_all_its_weights():
    recipe = load_recipe(ROOT / "export" / "pushing.yaml")
    bundle = load_bundle(ROOT / "models" / "pushing")
    teacher = read_teacher(bundle, recipe.teacher)  # compares its answers with the graph's
    assert all(torch.isfinite(value).all() for value in teacher.state_dict().values())
    assert isinstance(teacher.head.from_time, TimeTable)
    assert not any(value.requires_grad for value in teacher.parameters())


def test_a_teacher_of_another_make_is_refused_by_what_differs(bundle):
    with pytest.raises(SrdpError, match=r"teacher\.diffusion_steps 50"):
        read_teacher(bundle, TeacherRecipe(diffusion_steps=50))
    other = {"network": {"trunk": [32], "latent": 64, "head": [256, 256, 256], "time_features": 32}}
    with pytest.raises(SrdpError, match=r"trunk.layers.* see teacher.network"):
        read_teacher(bundle, TeacherRecipe.model_validate(other))


def test_a_students_queries_are_answered_by_the_bundles_teacher_in_its_scales(bundle, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"task": "pushing", "collect": {"scenario": "box"}, "data": {"normalise": "data"}})
    )
    pipeline_command(recipe, run_folder=tmp_path, teacher=bundle.folder, quick=True, last="queries")
    queries = load_queries(tmp_path / "quick" / "queries.pt")
    teacher = read_teacher(bundle, TeacherRecipe())
    chunk, _ = teacher.sample(queries.observation[:4], queries.levels[:4, 0])
    np.testing.assert_allclose(chunk, queries.levels[:4, -1], atol=1e-4)
    assert not (tmp_path / "quick" / "teacher.pt").exists()
