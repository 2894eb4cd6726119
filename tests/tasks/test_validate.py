"""validate: the suites of data/expectations against good and broken data."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pandas
import pytest

from tasks import validate
from tasks.adapters import expectations, stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation.statistics import wilson
from tasks.preferences import bounds
from tasks.preferences.dialogue import check_prompt
from tasks.preferences.screen import RefusedError
from tasks.records import DATASETS, Demonstration, Feedback, Preference, Prompt, Safety, Solution, to_table, write_table

SUITES = Path(__file__).parents[2] / "data/expectations"
ASK: Any = [{"role": "user", "content": "Hi"}]
SHARED: dict[str, Any] = {"prompt": ASK, "source": "test", "cluster": "c"}
ROWS: dict[str, list[Any]] = {
    "demonstrations": [Demonstration(id="1", reply="Hello.", domain="d", **SHARED)],
    "preferences": [
        Preference(
            id=str(n),
            reply_a="Hello.",
            reply_b="Go now.",
            choice="ab"[n % 2],
            confidence=1.0,
            rater="ann",
            domain="d",
            **SHARED,
        )
        for n in range(10)
    ],
    "safety": [Safety(id="1", expected="decline", category="c", **SHARED)],
    "prompts": [Prompt(id="1", domain="d", verifier='{"kind": "exact"}', **SHARED)],
    "solutions": [Solution(id="1", steps=["1 + 2 = 3.", "Yes."], labels=[True, None], domain="d", **SHARED)],
    "feedback": [
        Feedback(
            id="1",
            reply="Hi.",
            desirable=True,
            signal="upvote",
            noise=0.25,
            weight=0.25,
            rater="r",
            domain="d",
            **SHARED,
        )
    ],
}


def write(data: Path, **changed: list[Any]) -> None:
    for name, rows in {**ROWS, **changed}.items():
        write_table(to_table(rows, DATASETS[name]), data / "raw" / name / "test.parquet")


def run(data: Path, suites: Path = SUITES) -> dict[str, Any]:
    with closing(FileTracker("validate", data)) as tracker:
        return validate.run(validate.Params(suites=suites), data, tracker)


def broken(dataset: str, **change: Any) -> dict[str, list[Any]]:
    first, *rest = ROWS[dataset]
    return {dataset: [dataclasses.replace(first, **change), *rest]}


def test_good_data_passes_and_data_docs_are_written(tmp_path: Path) -> None:
    write(tmp_path)
    metrics = run(tmp_path)
    for name in DATASETS:
        assert metrics[name]["critical"]["failed"] == 0
        assert metrics[name]["critical"]["passed"] > 3
        assert metrics[name]["rows"] == len(ROWS[name])
    assert (tmp_path / "runs/validate/data_docs/index.html").is_file()
    assert run(tmp_path) == metrics


def test_conduct_is_held_against_verdicts_and_comparisons(tmp_path: Path) -> None:
    (upvote,) = ROWS["feedback"]
    on = {"reply": "Hello."}  # which wins 5 of 10, and 6 of 11
    asked = dataclasses.replace(upvote, id="2", desirable=False, signal="explicit", noise=0.0, weight=1.0, **on)
    once_more = dataclasses.replace(ROWS["preferences"][0], id="again")
    write(
        tmp_path,
        feedback=[dataclasses.replace(upvote, **on), asked],
        preferences=[*ROWS["preferences"], once_more],
    )
    found = run(tmp_path)["implicit_feedback"]
    assert list(found) == ["upvote"]
    told = found["upvote"]
    assert (told["n"], told["agreement"], told["estimated_noise"], told["assumed_noise"]) == (1, 0.0, 1.0, 0.25)
    assert (told["comparisons"]["n"], told["comparisons"]["agreement"]) == (1, 1.0)
    assert told["comparisons"]["interval"] == wilson(1.0, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (broken("preferences", confidence=1.5), r"between\(confidence\) fails for 1 of 10 rows, e.g. .*id='0'"),
        (broken("preferences", id="1"), r"unique\(id\) fails for 2 of 10 rows"),
        (broken("preferences", choice="c"), r"in_set\(choice\) fails for 1 of 10"),
        (broken("preferences", reply_b="Hello."), r"in_set\(replies_differ\) fails for 1 of 10"),
        (broken("preferences", reply_a=" "), r"between\(reply_a_chars\)"),
        (broken("preferences", rater=""), r"between\(rater\)"),
        (broken("demonstrations", reply=""), r"between\(reply_chars\)"),
        (broken("demonstrations", cluster=""), r"between\(cluster\)"),
        (broken("safety", expected="maybe"), r"in_set\(expected\)"),
        (broken("prompts", prompt=[{"role": "assistant", "content": "x"}]), r"in_set\(roles_ok\)"),
        (broken("prompts", verifier="{}"), r"in_set\(verifier_ok\)"),
        (broken("prompts", verifier="not json"), r"in_set\(verifier_ok\)"),
        (broken("feedback", signal="telepathy"), r"in_set\(signal\)"),
        (broken("feedback", noise=0.7), r"between\(noise\)"),
        (broken("feedback", reply=" "), r"between\(reply_chars\)"),
        (broken("solutions", labels=[True]), r"in_set\(label_per_step\)"),
        (broken("solutions", labels=[None, None]), r"in_set\(says_something\)"),
        (broken("solutions", steps=["a", " "]), r"between\(shortest_step_chars\)"),
        (broken("solutions", steps=["a", "b\nc"]), r"in_set\(steps_are_lines\)"),
        ({"demonstrations": []}, r"demonstrations: expect_table_row_count_to_be_between\(\) fails: observed 0"),
        ({"preferences": [], "feedback": []}, r"preferences, feedback: no row in either: nothing says which reply is"),
    ],
)
def test_a_broken_contract_stops_with_expectation_rows_and_examples(
    tmp_path: Path, changed: dict[str, list[Any]], message: str
) -> None:
    write(tmp_path, **changed)
    with pytest.raises(stage.ContractError, match=message) as caught:
        run(tmp_path)
    assert "Hello" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "runs/validate/data_docs/index.html").is_file()


def test_what_a_broken_contract_prints_names_nobody(tmp_path: Path) -> None:
    who = "jane.doe0@corp.com/+1-212-555-0180"
    rows = [dataclasses.replace(row, source=who, domain=who) for row in ROWS["preferences"]]
    rows[2] = dataclasses.replace(rows[2], id=who, choice=who)
    rows[3] = dataclasses.replace(rows[3], id="0123456789abcdef", rater="", choice=who)
    write(tmp_path, preferences=rows)
    with pytest.raises(stage.ContractError) as caught:
        run(tmp_path)
    said = str(caught.value)
    assert not any(part in said for part in ("jane", "corp", "212", "0180", "Hello"))
    pages = [path.read_text() for path in (tmp_path / "runs/validate/data_docs").rglob("*.html")]
    assert any("preferences" in page and "choice" in page for page in pages)
    assert not [part for page in pages for part in ("jane", "corp.com", "555-0180") if part in page]
    assert "choice='xxxx.xxx0@xxxx.xxx/+0-000-000-0000' id='xxxx.xxx0@xxxx.xxx/+0-000-000-0000' in row 3 of" in said
    assert "id='0123456789abcdef' in row 4 of test.parquet: {\"prompt\": [{" in said


def test_a_warning_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    one_sided = [dataclasses.replace(row, choice="a") for row in ROWS["preferences"]]
    write(tmp_path, preferences=one_sided, safety=[])
    metrics = run(tmp_path)
    assert metrics["preferences"]["warnings"] == {
        "expect_column_mean_to_be_between(prefers_a)": 1.0,
        "expect_column_mean_to_be_between(prefers_longer)": 0.0,
        "expect_table_row_count_to_be_between(any: the shorter reply is better)": 10,
        "expect_table_row_count_to_be_between(any: the longer reply is better)": 0,
    }
    assert metrics["safety"]["empty"] is True


def test_judged_replies_do_without_comparisons(tmp_path: Path) -> None:
    write(tmp_path, preferences=[])
    metrics = run(tmp_path)
    assert metrics["preferences"]["warnings"]["expect_table_row_count_to_be_between()"] == 0
    assert (tmp_path / "contract.json").is_file()


def test_cells_of_the_world_are_asked_where_it_is_a_source(tmp_path: Path) -> None:
    write(tmp_path)
    cells = {(cell["task"], cell["case"]): cell for cell in run(tmp_path)["taxonomy"]}
    assert {task for task, _ in cells} == {"any", "safety"}
    shorter = cells["any", "the shorter reply is better"]
    assert (shorter["rows"], shorter["least"], shorter["covered"]) == (5, 50, False)
    (vote, *_) = ROWS["preferences"]
    facts = [
        dataclasses.replace(vote, id=f"w{n}", source="world", domain="facts", choice="ab"[n % 2]) for n in range(50)
    ]
    ties = [dataclasses.replace(each, id=f"t{n}", domain="unsafe", choice="tie") for n, each in enumerate(facts)]
    write(tmp_path, preferences=[*ROWS["preferences"], *facts, *ties])
    cells = {cell["task"]: cell for cell in run(tmp_path)["taxonomy"]}
    assert cells.keys() == {"any", "safety", "arithmetic", "facts", "lists", "howto", "unsafe", "lookalike"}
    assert (cells["facts"]["rows"], cells["facts"]["covered"]) == (50, True)
    assert (cells["unsafe"]["rows"], cells["unsafe"]["covered"]) == (0, False)


def test_a_hold_stops_with_its_own_error_until_it_is_released(tmp_path: Path) -> None:
    one_sided = [dataclasses.replace(row, id=f"{n}", choice="a") for n, row in enumerate(ROWS["preferences"] * 6)]
    write(tmp_path, preferences=one_sided)
    with pytest.raises(stage.HeldError, match=r"preferences: class_absent: .*make release-hold HOLD=class_absent"):
        run(tmp_path)
    assert not (tmp_path / "contract.json").exists()
    bounds.release(tmp_path, "class_absent", "preferences", "ann", "one side on purpose")
    bounds.release(tmp_path, "length_auc", "preferences", "ann", "short ones")
    assert "class_absent" in run(tmp_path)["holds"]["released"][0]


def test_an_error_in_a_suite_is_no_failure_of_the_data(tmp_path: Path) -> None:
    write(tmp_path)
    suites = tmp_path / "suites"
    shutil.copytree(SUITES, suites)

    def suite(**expectation: Any) -> None:
        (suites / "prompts.json").write_text(json.dumps({"expectations": [expectation]}))

    suite(type="expect_column_values_to_not_be_null", kwargs={"column": "nope"}, severity="critical")
    with pytest.raises(ValueError, match="no column `nope`; the columns are id, "):
        run(tmp_path, suites)
    suite(type="expect_column_values_to_not_be_null", kwargs={"column": "id"}, severity="fatal")
    with pytest.raises(ValueError, match="severity must be one of critical, warning"):
        run(tmp_path, suites)
    suite(type="expect_wonders", kwargs={}, severity="critical")
    with pytest.raises(ValueError, match=r"suite of prompts is not valid: .*expect_wonders"):
        run(tmp_path, suites)
    suite(type="expect_column_values_to_not_be_null", kwargs={"column": "id", "oops": 1}, severity="critical")
    with pytest.raises(ValueError, match=r"suite of prompts is not valid: .*oops extra fields"):
        run(tmp_path, suites)
    suite(type="expect_column_mean_to_be_between", kwargs={"column": "id", "max_value": 1}, severity="critical")
    with pytest.raises(RuntimeError, match="Great Expectations failed"):
        run(tmp_path, suites)
    (suites / "prompts.json").write_text("{")
    with pytest.raises(ValueError, match="not a suite"):
        run(tmp_path, suites)


def test_a_frame_has_no_texts_and_the_same_columns_when_empty(tmp_path: Path) -> None:
    write(tmp_path)
    full = {name: validate.frame(name, tmp_path / "raw" / name) for name in DATASETS}
    write(tmp_path, **{name: [] for name in DATASETS})
    for name, frame in full.items():
        assert not {"prompt", "reply", "reply_a", "reply_b"} & set(frame.columns)
        assert list(validate.frame(name, tmp_path / "raw" / name).columns) == list(frame.columns)


def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns and facts of a file are kept under its hash: the same as made anew, and made anew where it changes."""
    write(tmp_path)
    looked_at: list[str] = []
    monkeypatch.setattr(
        validate, "columns", lambda *given, of=validate.columns: looked_at.append(given[0]) or of(*given)
    )
    first = run(tmp_path)
    assert sorted(looked_at) == sorted(DATASETS)
    made = {name: validate.frame(name, tmp_path / "raw" / name) for name in DATASETS}
    looked_at.clear()
    frames: dict[str, Any] = {}
    monkeypatch.setattr(
        expectations, "check", lambda of, *_, check=expectations.check: frames.update(of) or check(of, *_)
    )
    assert run(tmp_path) == first
    assert not looked_at
    for name, frame in made.items():
        pandas.testing.assert_frame_equal(frames[name], frame)
    fresh = [dataclasses.replace(row, id=f"new {row.id}", choice="a") for row in ROWS["preferences"]]
    write_table(to_table(fresh, DATASETS["preferences"]), tmp_path / "raw/preferences/test_00001.parquet")
    counts = run(tmp_path)["holds"]["preferences"]
    assert looked_at == ["preferences"]
    assert (counts["rows"], counts["choices"]["a"]) == (20, 0.75)
    assert bounds.check(tmp_path, bounds.HoldOptions())[1]["preferences"] == counts
    kept = tmp_path / "runs/validate/kept"
    assert len(list(kept.iterdir())) == len(DATASETS) + 1
    (tmp_path / "raw/preferences/test_00001.parquet").unlink()
    for path in kept.glob("*/facts.json"):
        path.write_text("{}")  # somebody's own: not what was put there
    assert run(tmp_path) == first
    assert len(list(kept.iterdir())) == len(DATASETS)


def test_columns_derived_in_arrow_say_what_python_says_text_by_text(tmp_path: Path) -> None:
    texts = ["plain.", " a ", "\u3000x", "y\x1f", "é", "\x1c\x1d", "", " ", "\n深い\n", "(ok)"]
    prompts = [[{"role": role, "content": text}] for text in texts for role in ("user", "assistant")]
    prompts += [ASK * 2, [*ASK, {"role": "assistant", "content": "Yes?"}, *ASK], [{"role": "system", "content": "."}]]
    prompts += [[{"role": "system", "content": "."}, *ASK], []]
    shared: dict[str, Any] = {"confidence": 1.0, "rater": "ann", "domain": "d", "source": "test", "cluster": "c"}
    votes = [
        Preference(
            id=str(n), prompt=prompts[n % len(prompts)], reply_a=a, reply_b=b, choice=("a", "b", "tie")[n % 3], **shared
        )
        for n, (a, b) in enumerate(product(texts, texts))
    ]
    write(tmp_path, preferences=votes)
    found = validate.frame("preferences", tmp_path / "raw/preferences").to_dict("list")
    assert found["num_messages"] == [len(row.prompt) for row in votes]
    assert found["prompt_chars"] == [sum(len(turn["content"]) for turn in row.prompt) for row in votes]
    assert found["reply_a_chars"] == [len(row.reply_a.strip()) for row in votes]
    assert found["reply_b_chars"] == [len(row.reply_b.strip()) for row in votes]
    assert found["replies_differ"] == [row.reply_a != row.reply_b for row in votes]
    assert found["prefers_a"] == [{"a": 1.0, "b": 0.0}.get(row.choice, 0.5) for row in votes]
    for row, longer, is_prompt in zip(votes, found["prefers_longer"], found["roles_ok"], strict=True):
        a, b = len(row.reply_a), len(row.reply_b)
        assert longer == (0.5 if row.choice == "tie" or a == b else float((a > b) == (row.choice == "a")))
        try:
            assert bool(check_prompt(row.prompt)) == is_prompt
        except RefusedError:
            assert not is_prompt


def test_every_dataset_has_its_suite() -> None:
    assert {path.stem for path in SUITES.glob("*.json")} == set(DATASETS)
    for path in SUITES.glob("*.json"):
        assert {e["severity"] for e in expectations.read_suite(path)} <= set(expectations.SEVERITIES)


def test_as_a_process_a_broken_contract_exits_4_with_one_line(tmp_path: Path) -> None:
    write(tmp_path / "data", **broken("preferences", confidence=2.0))
    (tmp_path / "params.yaml").write_text(f"validate:\n  suites: {SUITES}\n")
    environment = {**os.environ, "PYTHONPATH": str(SUITES.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.validate"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == stage.BAD_CONTRACT
    assert done.stderr.startswith("error: validate: preferences: expect_column_values_to_be_between(confidence)")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data/reports/validate.json").exists()
