"""A shelf hands out what was put on it, whole, or nothing."""

from pathlib import Path

import pytest

from tasks import shelf
from tasks.shelf import Shelf


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/a").write_text("made")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    place = Shelf(tmp_path).get("k", fill)
    assert (place / "sub/a").read_text() == "made"
    assert Shelf(tmp_path).get("k", lambda _: pytest.fail("made again")) == place


@pytest.mark.parametrize("harm", ["changed", "gone", "no note", "torn note"])
def test_what_was_harmed_is_made_again(tmp_path: Path, harm: str) -> None:
    place = Shelf(tmp_path).get("k", fill)
    if harm == "changed":
        (place / "sub/a").write_text("more")
    elif harm == "torn note":
        (place / "kept.json").write_text('{"files"')
    else:
        (place / {"gone": "sub/a", "no note": "kept.json"}[harm]).unlink()
    assert Shelf(tmp_path).find("k") is None
    assert (Shelf(tmp_path).get("k", fill) / "sub/a").read_text() == "made"


def test_what_is_handed_out_writes_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    shelf.share(tmp_path / "a", tmp_path / "out/file")
    with pytest.raises(FileExistsError):
        shelf.share(tmp_path / "b", tmp_path / "out/file")
    assert (tmp_path / "a").read_text() == (tmp_path / "out/file").read_text() == "a"


def test_what_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Shelf(tmp_path).get("k", fail)
    assert Shelf(tmp_path).find("k") is None
    assert (Shelf(tmp_path).get("k", fill) / "sub/a").read_text() == "made"


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    before = Shelf(tmp_path)
    for key in "abc":
        before.put(key, fill)
    after = Shelf(tmp_path)
    after.find("a")
    after.put("d", fill)
    after.forget()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    after.forget(["d"])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_key_is_that_of_texts_and_contents(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    key = Shelf(tmp_path).key
    assert key("x", tmp_path / "a") == key("x", tmp_path / "b")
    told = [("x", tmp_path / "a"), ("x", tmp_path / "c"), ("y", tmp_path / "a"), ("xy", tmp_path / "a"), ("x", "y")]
    assert len({key(*parts) for parts in told}) == len(told)
    assert Shelf(tmp_path, "other code").key("x", "y") != key("x", "y")


def test_the_code_version_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_CODE", tmp_path)
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences/a.py").write_text("1")
    (tmp_path / "ingest.py").write_text("1")
    seen = {shelf.code_version("ingest", "preferences")}
    for name in ("preferences/a.py", "ingest.py"):
        (tmp_path / name).write_text("2")
        seen.add(shelf.code_version("ingest", "preferences"))
    seen.add(shelf.code_version("ingest", "preferences", libraries=["numpy"]))
    assert len(seen) == 4
