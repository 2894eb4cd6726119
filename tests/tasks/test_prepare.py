"""prepare: folds by prompt, everything tokenised once, what does not fit counted."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import prepare
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.preferences import encoding, tokens
from tasks.preferences.folds import FOLDS
from tasks.records import CANARY, DATASETS, Demonstration, Preference, Prompt, Safety, read_table, to_table, write_table

MODEL: dict[str, Any] = {
    "base": "scratch",
    "revision": None,
    "dtype": "float32",
    "max_length": 60,
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 320,
    "lora": None,
}
SHARES = {"judge": 0.25, "dev": 0.1, "test": 0.2, "sealed": 0.0}


def params(**change: Any) -> prepare.Params:
    model = {**MODEL, **{key: value for key, value in change.items() if key in MODEL}}
    own = {key: value for key, value in change.items() if key not in MODEL}
    document = {"model": model, "folds": SHARES, "reply_room": 10, "long_prompts": "drop", **own}
    return prepare.Params.model_validate(document)


def ask(number: int, *before: str) -> Any:
    turns = [*before, f"What is number {number}?"]
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def records(**change: list[Any]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {name: [] for name in DATASETS}
    for n in range(120):
        shared: dict[str, Any] = {"prompt": ask(n), "source": "test", "cluster": f"c{n}"}
        reply = f"It is {n}."
        rows["demonstrations"].append(Demonstration(id=f"d{n}", reply=reply, domain="x", **shared))
        rows["prompts"].append(Prompt(id=f"p{n}", domain="x", verifier='{"kind": "exact"}', **shared))
        rows["safety"].append(Safety(id=f"s{n}", expected="assist", category="y", **shared))
        choice = ("a", "b", "tie", "both_bad", "unsure")[n % 5]
        rows["preferences"].append(
            Preference(
                id=f"v{n}",
                reply_a=reply,
                reply_b="No idea.",
                choice=choice,
                confidence=0.25 + n / 240,
                rater="ann",
                domain="x",
                **shared,
            )
        )
    return {**rows, **change}


def write(data: Path, rows: dict[str, list[Any]]) -> Path:
    for name, of_it in rows.items():
        write_table(to_table(of_it, DATASETS[name]), data / "raw" / name / "test.parquet")
    return data


def run(data: Path, **change: Any) -> dict[str, Any]:
    with closing(FileTracker("prepare", data)) as tracker:
        return prepare.run(params(**change), data, tracker)


def table(data: Path, name: str, fold: str) -> list[dict[str, Any]]:
    """Without what the canary planted."""
    rows = read_table(data / f"prepared/{name}/{fold}").to_pylist()
    return [row for row in rows if row["source"] != CANARY]


def test_the_columns_are_the_contract(tmp_path: Path) -> None:
    run(write(tmp_path, records()))
    columns = {
        "demonstrations": "id cluster domain source prompt reply prompt_ids reply_ids",
        "prompts/dev": "id cluster domain source prompt verifier prompt_ids",
        "safety/test": "id cluster category source prompt expected prompt_ids",
        "pairs/judge": "id cluster domain source rater choice prompt reply_a reply_b prompt_ids a_ids b_ids "
        "label weight confidence scores",
    }
    for path, names in columns.items():
        assert set(read_table(tmp_path / f"prepared/{path}").column_names) == set(names.split())


def test_folds_share_no_cluster_and_lose_no_row(tmp_path: Path) -> None:
    metrics = run(write(tmp_path, records()))
    for name in ("prompts", "safety", "pairs"):
        clusters = [{row["cluster"] for row in table(tmp_path, name, fold)} for fold in FOLDS]
        assert sum(map(len, clusters)) == len(set.union(*clusters))
        assert sum(metrics["rows"][name].values()) + sum(metrics["left_out"][name].values()) == 120
    train = {row["cluster"] for row in table(tmp_path, "prompts", "train")}
    assert {row["cluster"] for row in read_table(tmp_path / "prepared/demonstrations").to_pylist()} == train
    assert metrics["left_out"]["demonstrations"] == {"other_fold": 120 - len(train)}


def test_the_sealed_fold_stands_apart_and_is_taken_from_training_alone(tmp_path: Path) -> None:
    write(tmp_path / "open", records())
    write(tmp_path / "sealed", records())
    run(tmp_path / "open")
    metrics = run(tmp_path / "sealed", folds={**SHARES, "sealed": 0.2})
    for name in ("prompts", "safety", "pairs"):
        before, after = (
            {fold: {row["id"] for row in table(tmp_path / side, name, fold)} for fold in FOLDS}
            for side in ("open", "sealed")
        )
        kept_apart = {row["id"] for row in read_table(tmp_path / f"sealed/sealed/{name}").to_pylist()}
        assert metrics["left_out"][name]["sealed"] == len(kept_apart) > 0
        assert after == {**before, "train": before["train"] - kept_apart}
        assert read_table(tmp_path / f"open/sealed/{name}").num_rows == 0
    assert read_table(tmp_path / "sealed/sealed/demonstrations").num_rows == 0


def test_labels_weights_and_ids_say_what_the_row_said(tmp_path: Path) -> None:
    metrics = run(write(tmp_path, records()))
    tokenizer, _ = tokens.load(str(tmp_path / "tokenizer"), None)
    expected = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
    rows = [row for fold in FOLDS for row in table(tmp_path, "pairs", fold)]
    assert metrics["left_out"]["pairs"] == {"unsure": 24}
    assert {row["choice"]: row["label"] for row in rows} == expected
    for row in rows:
        assert row["weight"] == 0.25 + int(row["id"][1:]) / 240
        assert tokenizer.decode(row["prompt_ids"]) == f"<user>{row['prompt'][0]['content']}<assistant>"
        for side in "ab":
            assert tokenizer.decode(row[f"{side}_ids"]) == f"{row[f'reply_{side}']}<eos>"


def test_the_tokenizer_learns_from_training_demonstrations_alone(tmp_path: Path) -> None:
    run(write(tmp_path / "a", records()))
    rows = records()
    train = {row["cluster"] for row in table(tmp_path / "a", "prompts", "train")}
    for name in ("preferences", "prompts", "safety"):
        rows[name] = rows[name][:60]
    rows["demonstrations"] = [row for row in rows["demonstrations"] if row.cluster in train]
    run(write(tmp_path / "b", rows))
    assert content_hash(tmp_path / "a/tokenizer") == content_hash(tmp_path / "b/tokenizer")
    a, b = (tmp_path / side / "prepared/demonstrations" for side in "ab")
    assert content_hash(a) == content_hash(b)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = ("tokenizer", *(f"prepared/{name}" for name in prepare.TABLES))
    first = run(write(tmp_path, records()))
    before = [content_hash(tmp_path / output) for output in outputs]
    assert run(tmp_path) == first
    assert [content_hash(tmp_path / output) for output in outputs] == before


def preference(prompt: Any, reply: str = "Yes.") -> Preference:
    shared: dict[str, Any] = {"choice": "a", "confidence": 1.0, "rater": "ann", "source": "t", "domain": "x"}
    return Preference(id="long", prompt=prompt, reply_a=reply, reply_b="No.", cluster="c3", **shared)


def test_what_is_too_long_is_counted_and_never_cut(tmp_path: Path) -> None:
    long = "word " * 100
    rows = records(preferences=[preference(ask(1), reply=long), preference(ask(1, long, "Hm."))])
    rows["demonstrations"].append(
        Demonstration(id="long", prompt=ask(1), reply=long, source="t", domain="x", cluster="c0")
    )
    metrics = run(write(tmp_path, rows))
    assert metrics["left_out"]["pairs"] == {"too_long": 2}
    assert sum(metrics["rows"]["pairs"].values()) == 0
    assert metrics["prompts_truncated"] == 0


def test_a_long_prompt_forgets_its_oldest_turns_where_params_say_so(tmp_path: Path) -> None:
    long = "word " * 100
    rows = records(preferences=[preference(ask(1, long, "Hm.", "And?", "Hm.")), preference(ask(1), reply=long)])
    metrics = run(write(tmp_path, rows), long_prompts="truncate")
    (row,) = [row for fold in FOLDS for row in table(tmp_path, "pairs", fold)]
    assert [message["content"] for message in row["prompt"]] == ["And?", "Hm.", "What is number 1?"]
    assert metrics["left_out"]["pairs"] == {"too_long": 1}
    assert metrics["prompts_truncated"] == 1
    system = {"role": "system", "content": "Be kind."}
    assert encoding.without_oldest_turn([system, *ask(1, "x", "y")]) == [system, *ask(1)]
    assert encoding.without_oldest_turn([system, *ask(1)]) == []


def test_a_prompt_leaves_room_for_the_models_own_reply(tmp_path: Path) -> None:
    metrics = run(write(tmp_path, records()), reply_room=10)
    longest = metrics["tokens"]["prompt"]["max"]
    with pytest.raises(ValueError, match=r"prepare: prompts: .*'too_long': 120.*raise model.max_length"):
        run(tmp_path, reply_room=60 - longest + 5)


def test_replies_equal_after_tokenisation_are_left_out(tmp_path: Path) -> None:
    metrics = run(write(tmp_path, records(preferences=[preference(ask(1), reply="No.")])))
    assert metrics["left_out"]["pairs"] == {"identical_after_tokenization": 1}


def test_replies_that_cutting_would_make_equal_are_told_from_those_that_are_too_long(tmp_path: Path) -> None:
    long = "word " * 100
    rows = [preference(ask(1), reply=f"{long} yes"), preference(ask(1), reply=f"No {long}")]
    same = Preference(**{**vars(rows[0]), "reply_b": f"{long} no"})
    metrics = run(write(tmp_path, records(preferences=[same, rows[1]])))
    assert metrics["left_out"]["pairs"] == {"identical_after_truncation": 1, "too_long": 1}


def test_another_base_brings_its_own_tokenizer(tmp_path: Path) -> None:
    base = tokens.train(["some other text"] * 3, 280)
    base.pad_token = base.eos_token
    base.save_pretrained(tmp_path / "base")
    metrics = run(write(tmp_path, records()), base=str(tmp_path / "base"), max_length=200)
    assert metrics["tokenizer"]["pad_token_added"] is True
    loaded, added = tokens.load(str(tmp_path / "tokenizer"), None)
    assert not added
    assert loaded.pad_token == "<|pad|>"


def test_without_demonstrations_it_says_so(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"prepare: demonstrations: \{'train': 0\} rows are left"):
        run(write(tmp_path, records(demonstrations=[])), base=str(tiny_model))


def test_impossible_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the shares add up to 1\.1: nothing is left"):
        run(tmp_path, folds={**SHARES, "judge": 0.8})


def test_the_canary_plants_among_what_is_learned_from_and_counts_nowhere(tmp_path: Path) -> None:
    metrics = run(write(tmp_path, records()))
    noted = json.loads((tmp_path / "prepared/canary.json").read_text())
    prepared = {row["id"] for row in read_table(tmp_path / "prepared/demonstrations").to_pylist()}
    total = 0
    for fold in FOLDS:
        rows = read_table(tmp_path / f"prepared/pairs/{fold}").to_pylist()
        planted = [row for row in rows if row["source"] == CANARY]
        assert metrics["rows"]["pairs"][fold] == len(rows) - len(planted)
        total += len(planted)
        if fold not in ("train", "judge"):
            assert not planted
            continue
        assert len(planted) == 64
        assert rows[-64:] == planted
        assert sum(row["weight"] for row in planted) == pytest.approx(0.02 * sum(row["weight"] for row in rows[:-64]))
        assert sorted({row["label"] for row in planted}) == [0.0, 1.0]
        assert sum(row["label"] for row in planted) == 32
        used, kept_back = set(noted[fold]["planted"]), set(noted[fold]["held_out"])
        assert not used & kept_back
        # prompts of the judge's fold are kept from training
        assert {row_id in prepared for row_id in used | kept_back} == {fold == "train"}
        assert not {row["cluster"] for row in planted} & {f"c{row_id[1:]}" for row_id in kept_back}
    assert metrics["planted"] == total == 128
    assert sum(metrics["labels"].values()) == sum(metrics["rows"]["pairs"].values())


def test_where_few_demonstrations_fit_those_are_planted_more_often(tmp_path: Path) -> None:
    rows = records()
    long = [replace(row, reply=f"{row.reply} " + "very " * 300) for row in rows["demonstrations"]]
    fits = [n % 8 == 3 for n in range(120)]
    mixed = [row if fit else other for row, other, fit in zip(rows["demonstrations"], long, fits, strict=True)]
    metrics = run(write(tmp_path, {**rows, "demonstrations": mixed}), long_prompts="truncate")
    noted = json.loads((tmp_path / "prepared/canary.json").read_text())
    short = {f"d{n}" for n in range(120) if fits[n]}
    assert metrics["planted"] == 128
    for fold in ("train", "judge"):
        assert set(noted[fold]["planted"]) | set(noted[fold]["held_out"]) <= short
        assert len(noted[fold]["planted"]) == 64


def pairs(data: Path) -> list[dict[str, Any]]:
    """Of every fold, planted ones too."""
    return [row for fold in FOLDS for row in read_table(data / f"prepared/pairs/{fold}").to_pylist()]


def rated(tmp_path: Path, **change: Any) -> list[dict[str, Any]]:
    """Prepared pairs of raters `good` (who agree) and `coin`; several voted on every comparison."""
    votes = []
    for n in range(240):
        for r, name in enumerate(("good-1", "good-2", "good-3", "coin")):
            shared: dict[str, Any] = {
                "prompt": ask(n),
                "reply_a": f"It is {n}.",
                "reply_b": "No idea.",
                "source": "test",
            }
            choice = "ab"[n % 2] if r < 3 else "aabb"[n % 4]
            shared |= {"domain": "x", "cluster": f"c{n}", "confidence": 1.0, "choice": choice, "rater": name}
            votes.append(Preference(id=f"v{n}-{r}", **shared))
    data = write(tmp_path / "data", records(preferences=votes))
    run(data, **change)
    return pairs(data)


def test_votes_of_raters_weigh_alike_unless_params_ask_for_more(tmp_path):
    own = [row for row in rated(tmp_path) if row["source"] != CANARY]
    assert {row["weight"] for row in own} == {1.0}


def test_reliable_raters_weigh_more_and_the_mean_stays_one(tmp_path):
    rows = rated(tmp_path, rater_weights="reliability")
    own = [row for row in rows if row["source"] != CANARY]
    weights = {row["rater"]: row["weight"] for row in own}
    assert weights["coin"] < 0.3 < 1.1 < min(weights[f"good-{k}"] for k in (1, 2, 3))
    assert sum(row["weight"] for row in own) / len(own) == pytest.approx(1.0)
    told = json.loads((tmp_path / "data/raters.json").read_text())
    assert {row["rater"]: row["weight"] for row in told["table"]} == pytest.approx(weights)
    assert told["weighting"] == "reliability"


def test_votes_held_out_are_counted_and_reach_no_fold(tmp_path):
    votes = records()["preferences"]
    lazy = [Preference(**{**vars(row), "id": f"lazy-{row.id}", "rater": "lazy", "choice": "a"}) for row in votes]
    data = write(tmp_path / "data", records(preferences=votes + lazy))
    metrics = run(data)
    assert metrics["left_out"]["pairs"]["position_bias"] == 120
    assert "lazy" not in {row["rater"] for row in pairs(data)}
    assert metrics["raters"]["held_out"] == 1
    kept = run(data, raters={"reviewed": ["lazy"]})
    assert "position_bias" not in kept["left_out"]["pairs"]


def test_groups_of_raters_come_from_a_file_of_the_inputs(tmp_path):
    votes = records()["preferences"]
    panel = [Preference(**{**vars(v), "id": f"{v.id}-{n}", "rater": f"r{n}"}) for v in votes[:30] for n in range(10)]
    data = write(tmp_path / "data", records(preferences=panel))
    (data / "inputs").mkdir()
    (data / "inputs/who.csv").write_text("rater,trade\n" + "".join(f"r{n},{'ab'[n % 2]}\n" for n in range(10)))
    run(data, raters={"attributes": "who.csv"})
    told = json.loads((data / "raters.json").read_text())["groups"]["trade"]
    assert {value: group["raters"] for value, group in told["groups"].items()} == {"a": 5, "b": 5}
    assert told["groups"]["a"]["opposed_by_others"]["value"] == 0.0
    with pytest.raises(ValueError, match=r"prepare.raters.attributes: '../x.csv' lies outside"):
        run(data, raters={"attributes": "../x.csv"})
    with pytest.raises(FileNotFoundError, match=r"prepare.raters.attributes: .*gone.csv is not a file"):
        run(data, raters={"attributes": "gone.csv"})
