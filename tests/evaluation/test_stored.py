import pytest

from srdp_controller.engines.bundle import CandidatesChoice, load_bundle, write_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.stored import store_in


def choice(number):
    return CandidatesChoice(candidates=number, scenario="nominal", update_rate_hz=100.0, episodes=2, successes={1: 1})


@pytest.fixture
def loaded(bundle_copy):
    write_bundle(bundle_copy, load_bundle(bundle_copy).content)  # in today's schema
    return load_bundle(bundle_copy)


def test_what_others_stored_meanwhile_is_kept(loaded):
    store_in(loaded.folder, loaded, candidates={"student_k1": choice(16)})
    store_in(loaded.folder, loaded, candidates={"student_k4": choice(4)})
    now = load_bundle(loaded.folder)
    assert [now.content.candidates_of(name) for name in ("student_k1", "student_k4", "student_k8")] == [16, 4, 1]
    assert now.identity == loaded.identity


def test_nothing_is_stored_in_a_bundle_that_was_rebuilt_meanwhile(loaded):
    write_bundle(loaded.folder, loaded.content.model_copy(update={"task": "another"}))
    before = loaded.folder.joinpath("bundle.json").read_bytes()
    with pytest.raises(SrdpError, match="measure it again"):
        store_in(loaded.folder, loaded, candidates={"student_k1": choice(16)})
    assert loaded.folder.joinpath("bundle.json").read_bytes() == before
