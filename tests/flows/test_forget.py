"""Somebody opts out of a project that has shards, raw tables and registered versions."""

import json
import shutil
from pathlib import Path

import pytest

from flows import forget
from tasks.adapters import tracking
from tasks.preferences import shards
from tasks.preferences.rules.opt_outs import OptOuts
from tasks.records import Preference, to_table, write_table


def vote(number: int, rater: str) -> Preference:
    prompt = [{"role": "user", "content": f"Question {number}"}]
    texts = {"reply_a": "Yes.", "reply_b": "No.", "choice": "a", "confidence": 1.0}
    origin = {"rater": rater, "source": "s", "domain": "general", "cluster": "c"}
    return Preference(id=f"v{number}", prompt=prompt, **texts, **origin)  # type: ignore[arg-type]


def cached(rows: list[Preference]) -> str:
    """A version of data/raw/preferences that is in DVC's cache alone; its hash."""
    from dvc.repo import Repo

    write_table(to_table(rows, Preference), Path("older/votes.parquet"))
    with Repo(".") as repo:
        (added,) = repo.add(["older"])
        md5 = str(added.outs[0].hash_info.value)
    shutil.rmtree("older")
    Path("older.dvc").unlink()
    return md5


def test_opting_out_reaches_shards_and_names_tables_and_versions(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [vote(1, "ann"), vote(2, "bob")]
    shutil.rmtree("data/raw", ignore_errors=True)
    write_table(to_table(rows, Preference), Path("data/raw/preferences/votes.parquet"))
    fresh = Path("fresh.jsonl")
    row = {"prompt": "Hi", "reply_a": "x", "reply_b": "y", "choice": "a"}
    fresh.write_text("".join(json.dumps({**row, "rater": name}) + "\n" for name in ("ann", "eve")))
    taken = shards.accept(fresh, toy / "data")
    client = tracking.Store.of(toy).client()
    client.create_registered_model("policy")
    for md5 in (cached(rows), cached(rows[1:]), "0" * 32 + ".dir"):
        client.create_model_version("policy", (toy / "x").as_uri(), tags={"data.preferences.md5": md5})

    assert forget.main(["ann", "--look"]) == 0
    looked = capsys.readouterr().out
    assert "main: 1 rows in data/raw/preferences, source votes" in looked
    assert f"main: 1 rows in shard {taken.sha256[:12]}\n" in looked
    assert "policy version 1: preferences: 1 rows" in looked
    assert "policy version 2: none of their rows" in looked
    assert "policy version 3: preferences: not in the DVC cache, unknown" in looked
    assert not OptOuts.read(toy / "data").hashes
    assert [entry["rows"] for _, entry in shards.accepted(toy / "data")] == [2]

    assert forget.main(["ann"]) == 0
    said = capsys.readouterr().out
    assert f"shard {taken.sha256[:12]}, taken out" in said
    assert "what remains to be done" in said
    listed = OptOuts.read(toy / "data")
    assert listed.holds("ann")
    assert not listed.holds("bob")
    assert "ann" not in (toy / "data/opt_outs.json").read_text()
    ((path, entry),) = shards.accepted(toy / "data")
    assert (entry["rows"], "ann" in path.read_text()) == (1, False)
    assert Path("data/shards/rows.dvc").is_file()

    assert forget.main(["ann"]) == 0
    assert "was listed before" in capsys.readouterr().out
    assert OptOuts.read(toy / "data") == listed
    assert forget.main([" "]) == 2
    assert "SUBJECT is empty" in capsys.readouterr().err
