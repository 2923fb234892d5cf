"""Files and folders are complete or absent, damage is detected, no file is hashed twice, and no path is published."""

import builtins
import hashlib
import os
from pathlib import Path

import pytest

from hf_spam.files import check_empty, hash_file, public, read_manifest, write_file, write_folder, write_json


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "a").write_text("one")
    (folder / "deep" / "b").write_text("two")


def test_a_folder_is_written_with_its_manifest(tmp_path):
    write_folder(tmp_path / "made", fill, {"step": 7})
    manifest = read_manifest(tmp_path / "made")
    assert manifest["step"] == 7
    assert manifest["files"]["deep/b"] == {"size": 3, "sha256": hashlib.sha256(b"two").hexdigest()}
    write_folder(tmp_path / "made", lambda folder: (folder / "c").write_text("new"))
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "c"], "replaced, and nothing else is left"


def test_a_failed_write_leaves_the_old_content(tmp_path):
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("No space left on device")

    write_folder(tmp_path / "made", fill)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "made", fail)
    write_json(tmp_path / "value", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value", {"a": float("nan")})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_file(tmp_path / "folder", b"x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "deep", "folder", "made", "value"]
    assert (tmp_path / "value").read_text() == '{\n  "a": 1\n}\n'


def test_an_interruption_between_the_two_renames_loses_neither_folder(tmp_path, monkeypatch):
    def interrupted(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".writing-"):
            raise KeyboardInterrupt
        os.rename(source, target)

    write_folder(tmp_path / "made", fill)
    monkeypatch.setattr("hf_spam.files.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "made", lambda folder: (folder / "c").write_text("new"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "deep", "made"]


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    """A shell would be left in a folder that is no longer there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match=r"^\. is the current folder"):
        check_empty(Path("."))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "a").write_text("ona"), "is damaged: a has changed since it was written"),
        (lambda folder: (folder / "deep" / "b").unlink(), "is incomplete: deep/b is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is incomplete: it has no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").unlink(), "is incomplete: it has no readable manifest.json"),
    ],
)
def test_damage_is_found_and_named(tmp_path, damage, words):
    write_folder(tmp_path / "made", fill, {})
    damage(tmp_path / "made")
    with pytest.raises(ValueError, match=words):
        read_manifest(tmp_path / "made")


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    """Links and renamed files count as the same file, a changed file does not."""
    opened, path = [], tmp_path / "weights"
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(0, 0))
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *how: opened.append(self) or real(self, *how))
    first = hash_file(path)
    os.link(path, tmp_path / "link")
    os.replace(path, tmp_path / "moved")
    assert hash_file(tmp_path / "link") == hash_file(tmp_path / "moved") == first and len(opened) == 1
    with builtins.open(tmp_path / "moved", "r+b") as file:
        file.write(b"y")
    assert hash_file(tmp_path / "moved") == {"size": 1000, "sha256": hashlib.sha256(b"y" + b"x" * 999).hexdigest()}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/data.csv", "data.csv"),
        ("../data.csv", "data.csv"),
        ("~/data.csv", "data.csv"),
        ("a/b/c.csv", "c.csv"),
        ("owner/name", "owner/name"),
        ("uci", "uci"),
        (5, 5),
        (None, None),
    ],
)
def test_only_the_last_part_of_a_local_path_is_published(value, shown):
    assert public(value) == shown
