"""sha256 of files: remembered only as long as nothing about a file has changed."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from tasks import hashes
from tasks.hashes import content_hash, remembered

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file; two seconds after its last change have gone by at once."""
    monkeypatch.setattr(hashes, "_SETTLED_NS", 0)
    path = tmp_path / "rows.jsonl"
    path.write_text("a vote for a\n")
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    found: list[Path] = []
    read = hashes._read
    monkeypatch.setattr(hashes, "_read", lambda path: found.append(path) or read(path))
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_once_for_all_stages_of_a_workspace(old: Path, tmp_path: Path, read: list[Path]) -> None:
    for name in ("ingest", "validate"):
        with remembered(tmp_path / "runs", name):
            assert [content_hash(old), content_hash(old)] == [sha256(old)] * 2
    assert read == [old]
    content_hash(old)
    assert read == [old, old]  # outside of a stage nothing is remembered


def test_what_was_written_just_now_is_read_again(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("a")
    with remembered(tmp_path / "runs", "ingest"):
        content_hash(path)
        content_hash(path)
    assert read == [path, path]
    assert json.loads((tmp_path / "runs/ingest/hashes.json").read_text()) == {}


@pytest.mark.parametrize("way", ["in place", "with its old time", "another file with its time"])
def test_a_change_is_seen(old: Path, tmp_path: Path, way: str) -> None:
    os.utime(old, ns=(LONG_AGO, LONG_AGO))
    with remembered(tmp_path / "runs", "ingest"):
        before = content_hash(old)
    if way == "another file with its time":
        other = tmp_path / "other"
        other.write_text("a vote for b\n")
        other.replace(old)
    else:
        with old.open("r+") as file:
            file.write("a vote for b\n")
    if way != "in place":
        os.utime(old, ns=(LONG_AGO, LONG_AGO))
    with remembered(tmp_path / "runs", "ingest"):
        assert content_hash(old) == sha256(old) != before


def test_a_part_is_known_under_another_link(tmp_path: Path, read: list[Path]) -> None:
    old, part = tmp_path / "rows.jsonl", tmp_path / "kept.jsonl"
    old.write_text("a vote for a\n")
    os.utime(old, ns=(LONG_AGO, LONG_AGO))
    os.link(old, part)  # links are new whenever a stage has put them there
    with remembered(tmp_path / "runs", "ingest"):
        content_hash(old)
    for name in ("again.jsonl", "and_again.jsonl"):
        os.link(part, tmp_path / name)
        with remembered(tmp_path / "runs", "validate"):
            assert content_hash(tmp_path / name) == sha256(old)
    assert read == [old]


@pytest.mark.parametrize("note", ["", "{", "[1]", "3", "null"])
def test_a_torn_note_says_nothing(old: Path, tmp_path: Path, note: str) -> None:
    path = tmp_path / "runs/ingest/hashes.json"
    path.parent.mkdir(parents=True)
    path.write_text(note)
    with remembered(tmp_path / "runs", "ingest"):
        assert content_hash(old) == sha256(old)


def test_a_folder_is_its_names_and_what_they_hold(tmp_path: Path) -> None:
    texts = {"a": "1", "b/c": "2"}
    for name, text in reversed(texts.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = "".join(
        f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\n" for name, text in (("a", "1"), ("b/c", "2"))
    )
    assert content_hash(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    with pytest.raises(FileNotFoundError, match="missing; run the stage that writes it"):
        content_hash(tmp_path / "none")
