"""How many chunks to sample in a cycle: chosen where the gain is more than chance, and kept in the bundle."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("joblib", reason="needs the simulation's packages: make setup")

from srdp_controller.engines.bundle import load_bundle, write_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.candidates import candidates, choose
from srdp_controller.evaluation.closed_loop import Job, closed_loop


def outcomes(*successes, episodes=200):
    return {n: (np.arange(episodes) < count).astype(float) for n, count in successes}


def test_more_chunks_are_chosen_only_where_the_gain_is_more_than_chance():
    rng = np.random.default_rng(0)
    assert choose(outcomes((1, 100), (4, 150), (16, 180), (64, 150)), rng)[0] == 16
    assert choose(outcomes((1, 199), (4, 200), (16, 200)), rng)[0] == 1  # one episode of 200 is luck
    assert choose(outcomes((1, 150), (16, 90)), rng)[0] == 1
    assert choose(outcomes((1, 100), (16, 180), (4, 180)), rng)[0] == 4  # the smallest of several


def test_the_gain_is_paired_by_episode():
    half = np.tile([0.0, 1.0], 100)
    better = np.maximum(half, (np.arange(200) % 20 == 0).astype(float))  # wins ten episodes, loses none
    low, high = choose({1: half, 16: better}, np.random.default_rng(0))[1][16]
    assert 0.0 < low < 0.05 < high


def test_the_choice_lies_in_the_bundle_and_drives_its_evaluations(model_dir, tmp_path, capsys):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.3}))
    folder = tmp_path / "bundle"
    shutil.copytree(model_dir, folder)
    write_bundle(folder, load_bundle(folder).content)  # in today's schema
    identity = load_bundle(folder).identity
    result = candidates(folder, numbers=(1, 4), scenario=str(brief), episodes=2, store=True, processes=1)
    assert result["policy"] == "student_k1" and result["candidates"] == 1  # nobody succeeds in 0.3 s
    assert "student_k1: 1 chunk a cycle" in capsys.readouterr().out
    stored = load_bundle(folder)
    assert stored.identity == identity and stored.content.candidates_of("student_k1") == 1
    choice = stored.content.candidates["student_k1"].model_copy(update={"candidates": 16})
    told = stored.content.model_copy(update={"candidates": {"student_k1": choice}})
    job = Job(folder, "student_k1", "pushing", "nominal", {})
    other = Job(folder, "student_k4", "pushing", "nominal", {})
    explicit = Job(folder, "student_k1", "pushing", "nominal", {"sampling.candidates": 2})

    class Told:
        content = told

    assert [one.candidates(Told()) for one in (job, other, explicit)] == [16, 1, 2]


def test_an_evaluation_samples_several_wherever_the_controller_would(model_dir, tmp_path):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.2}))

    def driven(planning, **options):
        return closed_loop(
            Path(model_dir),
            policy="student_k1",
            scenario=str(brief),
            episodes=1,
            planning=planning,
            processes=1,
            **options,
        )["candidates"]

    assert driven("auto", candidates=2) == 2
    assert driven("auto", candidates=64, latency="measured", update_rate=20_000.0) == 1  # they do not fit
    with pytest.raises(SrdpError, match="expected 1, or more in every cycle"):
        driven("ahead", candidates=2)
