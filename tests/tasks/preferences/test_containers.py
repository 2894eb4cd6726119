"""Files, folders and archives: the same rows whatever they lie in, and what is left out is counted."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.preferences import archives, delimited, manifests, packed
from tasks.preferences.containers import Part, open_rows, parts
from tasks.preferences.screen import BadFileError, Refusal, Row
from tasks.records import read_table
from tests.tasks.folders import fresh
from tests.tasks.preferences.test_bad_inputs import VOTE, run, tarred, zipped

ROWS = [{**VOTE, "rater": name} for name in ("ann", "bob", "eve")]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def values(found: list[Part]) -> list[Any]:
    return [row.value for part in found for row in part.open(Counter()) if isinstance(row, Row)]


def counted(done: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        done[name] += 1
        return function(*arguments, **options)

    return call


def tarred_all(members: dict[str, bytes], packed_by: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{packed_by}") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def table(rows: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, "zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd, bytes])
def test_compressed_files_hold_the_same_rows(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "rows"
    path.write_bytes(pack(LINES))
    assert values(parts(path)) == ROWS
    if pack is not bytes:
        path.write_bytes(pack(LINES)[:-9])
        with pytest.raises(BadFileError, match="archive_corrupt"):
            values(parts(path))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd), ("zstd", zstd)],
)
def test_formats_that_are_told_by_name_are_told_when_compressed(tmp_path: Path, suffix: str, pack: Any) -> None:
    flat = [{"prompt": "a", "chosen": "b, or so", "rejected": "c"}] * 2
    table, document = tmp_path / f"rows.csv.{suffix}", tmp_path / f"rows.json.{suffix}"
    table.write_bytes(pack(b"prompt,chosen,rejected\n" + b'a,"b, or so",c\n' * 2))
    document.write_bytes(pack(json.dumps({"version": 1, "data": flat}, indent=1).encode()))
    assert values(parts(table)) == values(parts(document)) == flat


def test_a_folder_gives_its_data_files_in_name_order(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    folder = data / "inputs/set"
    (folder / "data").mkdir(parents=True)
    (folder / "data/train-00001.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[2]).encode()))
    (folder / "data/train-00000.parquet").write_bytes(table(ROWS[:2]))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (folder / "chat.json").write_text(json.dumps([{"messages": turns}], indent=1))
    for name in ("README.md", "LICENSE", ".gitattributes", "dataset_info.json", "settings.yaml"):
        (folder / name).write_text("{}")
    (folder / "about.json").write_text(json.dumps({"citation": "x"}, indent=1))
    assert [part.name for part in parts(folder)] == [
        "chat.json",
        "data/train-00000.parquet",
        "data/train-00001.jsonl.gz",
    ]
    metrics = run(data, "set", rate=0.0)
    assert {name: tally["format"] for name, tally in metrics["sources"].items()} == {
        "set-chat-json": "chat",
        "set-data-train-00000-parquet": "canonical_preferences",
        "set-data-train-00001-jsonl-gz": "canonical_preferences",
    }
    assert (metrics["accepted"], metrics["rows"]["preferences"], metrics["rows"]["demonstrations"]) == (4, 3, 1)
    assert (metrics["warnings"]["hidden_file"], metrics["warnings"]["metadata_file"]) == (1, 5)
    assert set(read_table(data / "raw/preferences")["source"].to_pylist()) == {"set"}


def test_an_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    members = {"set/b.jsonl": LINES, "set/a.parquet": table(ROWS), "set/c.jsonl.gz": gzip.compress(LINES)}
    members |= {"set/README.md": b"x", "__MACOSX/._b": b"x"}
    (tmp_path / "set.zip").write_bytes(zipped(members))
    (tmp_path / "set.tar.bz2").write_bytes(tarred_all(members, "bz2"))
    (tmp_path / "set.tar.zst").write_bytes(zstd(tarred_all({**members, "set/d.jsonl.zst": zstd(LINES)}, "")))
    assert values(parts(tmp_path / "set.tar.zst")) == ROWS * 4
    (tmp_path / "set.tar.zst").unlink()
    for name in ("set.zip", "set.tar.bz2"):
        found = parts(tmp_path / name)
        assert [part.name for part in found] == ["set/a.parquet", "set/b.jsonl", "set/c.jsonl.gz"]
        assert found[0].left_out == {"metadata_file": 1, "hidden_file": 1}
        assert values(found) == ROWS * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.tar.bz2", "set.zip"]


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_is_gone_through_once_however_many_members_it_has(
    tmp_path: Path, pack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers read and streams unpacked; in no order, and many members at a time."""
    members = {f"{n * 7 % 10}-{n}.jsonl": LINES for n in range(50)}
    path = tmp_path / f"set.{pack}"
    path.write_bytes(zipped(members) if pack == "zip" else tarred_all(members, pack.partition(".")[2]))
    done: Counter[str] = Counter()
    for place, name in ((tarfile.TarFile, "next"), (zipfile.ZipFile, "__init__"), (packed, "open_unpacked")):
        monkeypatch.setattr(place, name, counted(done, name, getattr(place, name)))
    found = parts(path)
    assert [part.name for part in found] == sorted(members)
    rows = [part.open(Counter()) for part in found]
    firsts = [next(each) for each in reversed(rows)]
    assert all(isinstance(row, Row) and row.value == ROWS[0] for row in firsts)
    assert [len(list(each)) for each in rows] == [len(ROWS) - 1] * 50
    assert done["next"] <= 2 * 50 + 2  # looked through once; each member's reader looks at the first header
    assert done["__init__"] == (pack == "zip")
    assert done["open_unpacked"] <= 3  # to tell what it is, to look through it, and to read it


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped({"a.jsonl": LINES})[:-30], "archive_corrupt"),
        (zipped({"README.md": b"x"}), "empty_file"),
        (zipped({"C:\\rows.jsonl": LINES}), "archive_unsafe"),
        (zipped({"a.jsonl": tarred("b.jsonl", LINES)}), "archive_unsafe"),
        (tarred("x.jsonl", LINES)[:-60], "archive_corrupt"),
    ],
)
def test_a_bad_archive_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        values(parts(path))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_and_doubles_in_a_zip_are_refused(tmp_path: Path) -> None:
    for names, mode in ((["a.jsonl", "a.jsonl"], 0o100644), (["a.jsonl"], 0o120777)):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                member = zipfile.ZipInfo(name)
                member.external_attr = mode << 16
                archive.writestr(member, LINES)
        with pytest.raises(BadFileError, match="archive_unsafe"):
            parts(tmp_path / "a.zip")


def test_a_bomb_stops_where_it_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that lies is found out by what comes out."""
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.jsonl": LINES * 50}))
    for module in (archives, packed):
        monkeypatch.setattr(module, "RATIO_FROM", 10)
        monkeypatch.setattr(module, "MAX_RATIO", 2)
    with pytest.raises(BadFileError, match="archive_unsafe"):
        list(archives.Archive(path, "zip").rows("a.jsonl", Counter()))


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jsonl").write_bytes(LINES)
    (tmp_path / "set/rows.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(BadFileError, match=r"rows.jsonl: archive_unsafe: a link out of its folder"):
        parts(tmp_path / "set")


def test_csv_with_a_header_is_a_format_where_it_is_called_so(tmp_path: Path) -> None:
    text = 'prompt,chosen,rejected,note\nHi,"Hello,\nyou.",Go.,\n"a","b"\nHo,x,\x01,\nHe,42,y,"z"\n'
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = list(open_rows(path, Counter()))
    assert [getattr(row, "reason", "ok") for row in found] == ["ok", "cell_count", "control_char", "ok"]
    assert isinstance(found[0], Row)
    assert found[0].value == {"prompt": "Hi", "chosen": "Hello,\nyou.", "rejected": "Go."}
    assert isinstance(found[3], Row)
    assert found[3].value["chosen"] == "42"
    tabbed = tmp_path / "rows.tsv.gz"
    tabbed.write_bytes(gzip.compress(b'prompt\tcompletion\tlabel\nHi\tcaf\xc3\xa9, "x"\tTrue\nHi\tcaf\xe9\tFalse\n'))
    first, second = open_rows(tabbed, Counter())
    assert isinstance(first, Row)
    assert first.value["label"] is True
    assert isinstance(second, Refusal)
    assert second.reason == "bad_encoding"
    path.write_bytes(LINES)
    assert values(parts(path)) == ROWS
    path.write_bytes(b"prompt,prompt\na,b\n")
    with pytest.raises(BadFileError, match="wrong_format: the first line is no header"):
        list(open_rows(path, Counter()))


def test_a_manifest_of_a_folder_is_held_against_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINES)
    for files, message in (
        ({"a.jsonl": {"size": 3}}, "hash_mismatch: has "),
        ({"b.jsonl": {"size": 3}}, "b.jsonl: hash_mismatch: listed in the manifest but missing"),
        ({"../x": {"size": 3}}, "archive_unsafe: its manifest lists"),
        ({"a.jsonl": {"sha256": "what"}}, "wrong_format: 'what' is no sha256"),
    ):
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
        with pytest.raises(BadFileError, match=message):
            parts(folder)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 9, "files": {}}))
    with pytest.raises(BadFileError, match="schema_unknown: schema_version is '9'"):
        manifests.read(folder)
    (folder / "manifest.json").write_text(json.dumps({"files": {"a.jsonl": {"size": len(LINES)}}}))
    assert values(parts(folder)) == ROWS


def test_a_fresh_shard_may_be_an_archive(tmp_path: Path) -> None:
    from tasks.preferences import shards

    data = fresh(tmp_path / "data")
    (tmp_path / "rows.zip").write_bytes(zipped({"a.jsonl": LINES, "LICENSE": b"x"}))
    assert shards.accept(tmp_path / "rows.zip", data).rows == 3
    shutil.rmtree(data)
    assert delimited.is_delimited("x.CSV.gz")
