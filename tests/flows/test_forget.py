"""Somebody opts out of a project that has shards, raw tables and registered versions."""

import contextlib
import gzip
import html
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from flows import forget
from tasks.adapters import tracking
from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.preferences import shards
from tasks.preferences.rules.opt_outs import OptOuts
from tasks.preferences.screen import HeldError
from tasks.preferences.traces import Traces
from tasks.records import Preference, prompt_key, read_table, to_table, write_table


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
    write_table(pa.Table.from_pylist([{"id": "v1"}, {"id": "v2"}]), Path("data/prepared/pairs/train/votes.parquet"))
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
    assert "main: 1 rows in data/prepared\n" in looked
    assert f"main: 1 rows in shard {taken.sha256[:12]}\n" in looked
    nowhere = "data/sealed, data/runs/ingest/kept, data/runs/prepare/kept, data/quarantine, data/held"
    assert f"main: no row of theirs in {nowhere}\n" in looked
    assert "policy version 1: preferences: 1 rows" in looked
    assert "policy version 2: none of their rows" in looked
    assert "policy version 3: preferences: not in the DVC cache, unknown" in looked
    assert not OptOuts.read(toy / "data").hashes
    assert [entry["rows"] for _, entry in shards.accepted(toy / "data")] == [2]

    assert forget.main(["nobody@corp.com", "--look"]) == 0
    assert "data/shards, data/held: nobody is known here by this name" in capsys.readouterr().out

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


OWN = "Where did my <aunt> bury the box of letters in 1961?"  # what only the subject wrote
NAME = "user-77"


def plant(data: Path) -> None:
    """Rows of the subject, and what is made of them, wherever something of a workspace lies."""
    prompt = [{"role": "user", "content": OWN}]
    row = asdict(vote(1, "bob")) | {"prompt": prompt, "owner": NAME, "reply_b": f"You asked: {OWN}"}
    other = asdict(vote(2, "eve"))
    kept = ("runs/ingest/kept/k/preferences", "runs/prepare/kept/k")
    for name in ("raw/preferences", "sealed/pairs", "prepared", "evaluation", *kept, "own"):
        columns = row if name.startswith("raw") else {key: row[key] for key in ("prompt", "reply_a", "rater")}
        write_table(pa.Table.from_pylist([columns]), data / name / "rows.parquet")
    told = json.dumps({"excerpt": json.dumps({"prompt": OWN, "user_id": NAME})})
    pages = {
        "report.html": html.escape(OWN),
        "card.html": f"<td>{NAME}</td>",
        "reports/validate.json": json.dumps([NAME]),
    }
    lines = ["quarantine/votes.jsonl", "runs/ingest/judged/quarantine/votes.jsonl", "runs/mine/mined.jsonl"]
    lines += [
        "runs/align/traces.jsonl",
        "journal/1/artifacts/samples.json",
        "runs/log.txt",
        "checkpoints/align/k/state.json",
    ]
    for name, text in {**pages, **dict.fromkeys(lines, told)}.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (data / "reports/ingest.json").write_text('{"rows": 77}')
    (data / "runs/align/reference/k").mkdir(parents=True, exist_ok=True)  # numbers of their rows, which name nobody
    for rows, judge in (([row, other], None), ([row, other, {**other, "rater": "al", "id": "v3"}], hold)):
        fresh = data / "fresh.jsonl"
        fresh.write_text("".join(json.dumps(each) + "\n" for each in rows))
        with contextlib.suppress(HeldError):
            shards.accept(fresh, data, judge=judge)
        fresh.unlink()


def hold(dataset: str, folder: Path) -> tuple[list[str], list[str], dict[str, object]]:
    return [f"flipped_labels: those of {NAME}"], [], {"words": [OWN]}


def found(folder: Path, *left_out: str) -> list[str]:
    """Files below that have the subject's name or words, read as what they are."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    traces = []
    for path in files:
        if path.relative_to(folder).parts[0] in left_out:
            continue
        content = path.read_bytes()
        is_table = content[:4] == content[-4:] == b"PAR1"
        said = str(read_table(path).to_pylist()) if is_table else content.decode("utf-8", "replace")
        if NAME in said or OWN[13:] in html.unescape(said):
            traces.append(path.relative_to(folder).as_posix())
    return traces


@pytest.mark.parametrize("subject", [NAME, prompt_key([{"role": "user", "content": OWN}])])
def test_nothing_is_left_of_a_subject_planted_everywhere(
    toy: Path, capsys: pytest.CaptureFixture[str], subject: str
) -> None:
    recipe = toy / "data/workspaces/tried"
    for folder in (toy, recipe):
        if folder is recipe:
            shutil.copytree(toy, recipe, symlinks=True, ignore=shutil.ignore_patterns("workspaces"))
        plant(folder / "data")
    row = vote(1, "bob")
    cached([replace(row, prompt=[{"role": "user", "content": OWN}], owner=NAME)])
    (toy / "mlartifacts/0/run/artifacts").mkdir(parents=True)
    (toy / "mlartifacts/0/run/artifacts/report.html").write_text(html.escape(OWN))
    for folder in ("mlartifacts/0/run/artifacts/policy", "data/models/policy"):  # a vocabulary names nobody
        (toy / folder).mkdir(parents=True, exist_ok=True)
        (toy / folder / "tokenizer.json").write_text(json.dumps({"vocab": {NAME: 7}}))
    given = json.dumps({"prompt": OWN, "user_id": NAME}) + "\n"
    (toy / "data/inputs/votes.jsonl").write_text(given)
    (toy / "data/inputs/packed.gz").write_bytes(gzip.compress(given.encode()))
    (toy / ".dvc/tmp/exps").mkdir(parents=True)
    (toy / ".dvc/tmp/exps/torn.parquet").write_bytes((toy / "data/own/rows.parquet").read_bytes()[:99])
    names = toy / ".dvc/tmp/exps/tmp1/data/runs/prepare/kept/k/names.json"
    write_json(names, {"rater": [NAME, "eve"]})
    words = ["data/models/policy/tokenizer.json", "mlartifacts/0/run/artifacts/policy/tokenizer.json"]
    before = found(toy)
    assert len(before) > 40

    assert forget.main([subject, "--look"]) == 0
    assert found(toy) == before
    capsys.readouterr()
    assert forget.main([subject]) == 0
    said = capsys.readouterr().out
    if subject == NAME:
        assert sorted(found(toy)) == ["data/inputs/votes.jsonl", *words]
    else:  # the name of its owner is not the prompt
        assert [path for path in found(toy) if OWN[13:] in (toy / path).read_text()] == ["data/inputs/votes.jsonl"]
    for name in ("votes.jsonl", "packed.gz"):
        assert f"main: data/inputs/{name} names or quotes them: yours to clean" in said
    assert not (toy / ".dvc/tmp/exps/torn.parquet").exists()
    assert names.exists() == (subject != NAME)
    for data in (toy / "data", recipe / "data"):
        assert not (data / "runs/align/reference").exists()
        ((path, entry),) = shards.accepted(data)
        assert (entry["rows"], "eve" in path.read_text()) == (1, True)
        (held,) = shards.held(data)
        note = json.loads((held / "hold.json").read_text())
        assert note["entry"]["sha256"] == held.name == content_hash(held / "rows.jsonl")
        assert (note["entry"]["rows"], note["holds"][0].partition(":")[0]) == (2, "flipped_labels")
        assert shards.release(held.name[:12], data, "ann", "looked at").rows == 2
        assert (data / "reports/ingest.json").is_file()
        assert not (data / "raw/preferences").exists()
    assert Path("params.yaml").is_file()


def test_a_name_is_one_only_where_it_stands_as_one() -> None:
    traces = Traces("ann")
    for text in ('{"rater": "ann"}', r'"{\\"user_id\\": \\"ann\\"}"', "<td>ann</td>", "speeder: rater ann"):
        assert traces.in_text(text, quoted=False), text
    for text in ("7,ann,3\n", "say &#34;ann&#34;", '{"ann": 7}'):
        assert traces.in_text(text), text
        assert not traces.in_text(text, quoted=False), text
    for text in ("annual", "Dear ann, hello", "joann,7", "<td>anna</td>", '"ann-2"'):
        assert not traces.in_text(text), text
    prompt = [{"role": "user", "content": "one two three four five six seven eight"}]
    traces.learn([{"prompt": prompt, "owner": "ann", "rater": "bob"}])
    assert traces.in_text("... two&nbsp;three four\\nfive six SEVEN ...")
    assert not traces.in_text("two three four five six")
    assert not Traces("bob").in_text("one two three four five six seven")
