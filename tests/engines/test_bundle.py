import json

import pytest

from srdp_controller.engines import bundle as bundle_module
from srdp_controller.engines.bundle import Calibration, PolicyCalibration, load_bundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import BundleError


def test_the_shipped_bundle_is_whole(shipped_dir):
    bundle = load_bundle(shipped_dir)
    assert set(bundle.content.policies) == {"teacher", "student_k1", "student_k2", "student_k4", "student_k8"}
    for entry in bundle.content.policies.values():
        assert bundle.read(entry)
    assert bundle.calibration().policies["student_k4"].thresholds


def test_a_bundle_keeps_the_identity_that_it_had_before_its_schema_was_migrated(bundle):
    assert json.loads(bundle.raw)["schema_version"] == 1
    assert bundle.identity == "6688549cb3e7b317dbccb10687dae1991cd086485fd10cc860c3fd7d919ed418"


def test_each_shipped_bundle_is_small(shipped_dir):
    bundles = [folder for folder in shipped_dir.parent.iterdir() if (folder / "bundle.json").exists()]
    assert shipped_dir in bundles
    for folder in bundles:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 30 * 2**20


@pytest.mark.parametrize("position", [0, 1000, -1])
@pytest.mark.parametrize("name", ["student_k4.onnx", "teacher.onnx"])
def test_a_flipped_byte_in_a_graph_is_found_before_it_is_parsed(bundle_copy, name, position):
    path = bundle_copy / name
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: damaged"):
        load_engine(load_bundle(bundle_copy), name.removesuffix(".onnx"), "cpu")


def test_a_flipped_digit_in_the_manifest_is_found(bundle_copy):
    path = bundle_copy / "bundle.json"
    text = path.read_text()
    assert '"upper": 0.25' in text
    path.write_text(text.replace('"upper": 0.25', '"upper": 9.25', 1))
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(bundle_copy)


def test_a_flipped_byte_in_the_calibration_is_found(bundle_copy):
    path = bundle_copy / "calibration.json"
    path.write_text(path.read_text().replace("latent", "1atent", 1))
    with pytest.raises(BundleError, match=r"calibration\.json: damaged"):
        load_bundle(bundle_copy).calibration()


def test_a_truncated_graph_is_found(bundle_copy):
    path = bundle_copy / "student_k1.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="damaged"):
        load_engine(load_bundle(bundle_copy), "student_k1", "cpu")


def test_a_missing_file_is_named(bundle_copy):
    (bundle_copy / "student_k1.onnx").unlink()
    with pytest.raises(BundleError, match=r"student_k1\.onnx"):
        load_engine(load_bundle(bundle_copy), "student_k1", "cpu")


def test_a_link_out_of_the_bundle_is_refused(bundle_copy, tmp_path):
    path = bundle_copy / "student_k1.onnx"
    path.rename(tmp_path / "outside.onnx")
    path.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="outside the bundle"):
        load_engine(load_bundle(bundle_copy), "student_k1", "cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', "null", "\x00"])
def test_a_broken_manifest_is_one_clear_error(bundle_copy, text):
    (bundle_copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(bundle_copy)


def test_another_schema_version_is_refused_by_number(bundle_copy):
    path = bundle_copy / "bundle.json"
    content = json.loads(path.read_text())
    content["schema_version"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="schema version 99"):
        load_bundle(bundle_copy)


def test_no_bundle_says_what_was_expected(tmp_path):
    with pytest.raises(BundleError, match="models/pushing"):
        load_bundle(tmp_path)


def test_the_threshold_is_the_calibrated_one_at_or_below_alpha():
    calibration = Calibration(
        score="latent_distance",
        trajectories=100,
        policies={"student_k1": PolicyCalibration(thresholds={"0.05": 2.0, "0.1": 1.0}, median_score=0.1)},
    )
    assert calibration.threshold("student_k1", 0.07) == 2.0
    assert calibration.threshold("student_k1", 0.5) == 1.0
    with pytest.raises(BundleError, match=r"100 calibration trajectories.*one of 0\.05, 0\.1"):
        calibration.threshold("student_k1", 0.01)
    with pytest.raises(BundleError, match="no calibration"):
        calibration.threshold("student_k2", 0.1)


def test_an_older_schema_is_migrated_after_its_hashes_were_checked(bundle_copy, monkeypatch):
    seen = []

    def migrate(content):
        seen.append(content["task"])
        return {**content, "task": content["task"] + " migrated"}

    before = load_bundle(bundle_copy).identity
    newest = bundle_module.SCHEMA_VERSION + 1
    monkeypatch.setattr(bundle_module, "SCHEMA_VERSION", newest)
    monkeypatch.setattr(bundle_module, "MIGRATIONS", {**bundle_module.MIGRATIONS, newest - 1: migrate})
    loaded = load_bundle(bundle_copy)
    assert (loaded.content.task, loaded.content.schema_version) == ("pushing migrated", newest)
    assert loaded.identity == before
    assert load_engine(loaded, "student_k1", "cpu")
    manifest = bundle_copy / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"pushing"', '"pushinh"', 1))
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(bundle_copy)
    assert seen == ["pushing"]


def test_every_schema_from_the_oldest_on_has_its_migration():
    assert set(bundle_module.MIGRATIONS) == set(range(bundle_module.OLDEST_SCHEMA, bundle_module.SCHEMA_VERSION))


@pytest.mark.parametrize(("version", "remedy"), [("3", "update srdp_controller"), ("0", "re-export"), ("true", "re-")])
def test_a_schema_that_cannot_be_read_names_the_remedy(bundle_copy, version, remedy):
    path = bundle_copy / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version": 1', f'"schema_version": {version}', 1))
    with pytest.raises(BundleError, match=remedy):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a\\b.onnx", "nul\0.onnx", ""])
def test_a_manifest_that_names_a_file_outside_the_bundle_is_refused(bundle_copy, name):
    path = bundle_copy / "bundle.json"
    content = json.loads(path.read_text())
    content["policies"]["student_k1"]["file"] = name
    content.pop("content_sha256")
    content["content_sha256"] = bundle_module.sha256(bundle_module._canonical(content))
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"bundle\.json: field policies\.student_k1\.file"):
        load_bundle(bundle_copy)
