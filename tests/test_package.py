"""Bundles from elsewhere: packed, installed, signed, refused."""

import shutil
import stat
import zipfile

import pytest

pytest.importorskip("cryptography", reason="needs cryptography: make setup-test")

from srdp_controller.engines.archive import install_bundle, pack_bundle
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.signature import make_key, require_signature, sign_bundle
from srdp_controller.errors import BundleError, SrdpError


@pytest.fixture
def archive(model_dir, tmp_path):
    return pack_bundle(model_dir, tmp_path / "bundle.zip")


def test_what_is_packed_is_installed_as_it_was(archive, model_dir, tmp_path):
    installed = install_bundle(archive, tmp_path / "models" / "new")
    assert installed.content == load_bundle(model_dir).content
    for entry in installed.content.policies.values():
        assert installed.read(entry)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"new"}


def test_an_installed_bundle_takes_the_place_of_the_old_one_whole(archive, tmp_path):
    target = tmp_path / "new"
    target.mkdir()
    (target / "left over").write_text("x")
    install_bundle(archive, target)
    assert not (target / "left over").exists() and (target / "bundle.json").exists()


def test_a_refused_archive_leaves_the_old_bundle_alone(archive, tmp_path):
    target = tmp_path / "new"
    install_bundle(archive, target)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=archive.name):
        install_bundle(archive, target)
    assert load_bundle(target).content.policies
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "new"}


def zip_of(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for info, data in entries:
            file.writestr(info, data)
    return path


def link():
    info = zipfile.ZipInfo("teacher.onnx")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../escape.json", b"x")], "no name of a bundle's file"),
        ([("/etc/passwd", b"x")], "no name of a bundle's file"),
        ([("a/b/c.json", b"x")], "no name of a bundle's file"),
        ([("..\\escape", b"x")], "no name of a bundle's file"),
        ([(".hidden", b"x")], "no name of a bundle's file"),
        ([("a.json", b"x"), ("A.json", b"y")], "there twice"),
        ([(link(), b"/etc/passwd")], "is a link"),
        ([(f"f{i}", b"") for i in range(70)], "more than 64 files"),
        ([("other.json", b"{}")], "bundle.json"),
    ],
)
def test_path_tricks_are_refused_and_write_nothing(tmp_path, entries, message):
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    path = zip_of(place / "evil.zip", entries)
    with pytest.raises(BundleError, match=message):
        install_bundle(path, place / "new")
    assert [item.name for item in place.iterdir()] == ["evil.zip"]
    assert [item.name for item in tmp_path.iterdir()] == ["deep"]


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("bundle.json", "w", force_zip64=True) as entry,
    ):
        for _ in range(300):
            entry.write(bytes(2**20))
    with pytest.raises(BundleError, match="more than a bundle may hold"):
        install_bundle(path, tmp_path / "new")
    assert [item.name for item in tmp_path.iterdir()] == ["bomb.zip"]


def test_a_file_that_the_manifest_does_not_name_is_refused(model_dir, tmp_path):
    path = pack_bundle(model_dir, tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("extra.py", b"print()")
    with pytest.raises(BundleError, match=r"extra\.py"):
        install_bundle(path, tmp_path / "new")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(SrdpError, match=r"ends in \.zip"):
        install_bundle(tmp_path / "b.rar", tmp_path / "new")


@pytest.fixture
def signed(model_dir, tmp_path):
    folder = tmp_path / "signed"
    shutil.copytree(model_dir, folder)
    key = make_key(tmp_path / "key")
    assert sign_bundle(folder, tmp_path / "key") == key
    return folder, key


def test_a_signature_is_found_good_and_survives_packing(signed, tmp_path):
    folder, key = signed
    assert require_signature(load_bundle(folder), ["other", key]) == key
    installed = install_bundle(pack_bundle(folder, tmp_path / "s.zip"), tmp_path / "new", [key])
    assert require_signature(installed, [key]) == key


def test_what_is_not_signed_or_by_another_is_refused(signed, model_dir, tmp_path):
    folder, key = signed
    with pytest.raises(BundleError, match="not signed"):
        install_bundle(pack_bundle(model_dir, tmp_path / "u.zip"), tmp_path / "new", [key])
    with pytest.raises(BundleError, match="not among trusted_keys"):
        require_signature(load_bundle(folder), [make_key(tmp_path / "another")])


def test_a_manifest_that_was_changed_after_it_was_signed_is_refused(signed):
    from srdp_controller.engines.bundle import write_bundle

    folder, key = signed
    content = load_bundle(folder).content
    write_bundle(folder, content.model_copy(update={"task": "pulling"}))
    with pytest.raises(BundleError, match="changed after it was signed"):
        require_signature(load_bundle(folder), [key])


def test_a_key_is_never_overwritten_and_is_private(tmp_path):
    make_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(SrdpError, match="never overwritten"):
        make_key(tmp_path / "key")
