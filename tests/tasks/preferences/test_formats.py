"""Rows to canonical records: what each format means, and what each bad row is called."""

from typing import Any

import pytest

from tasks.preferences import formats
from tasks.preferences.formats import FORMATS, detect
from tasks.preferences.formats import pairs as pair_formats
from tasks.preferences.screen import BadFileError, RefusedError
from tasks.records import Feedback, Preference, Safety
from tests.tasks.preferences import examples

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye\n\nAssistant: Good bye.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye\n\nAssistant: Go.",
}
PAIR = {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go."}
USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "Hello."}]}
CONVERSATIONAL = {
    "prompt": [USER],
    "chosen": [{"role": "assistant", "content": "Hello."}],
    "rejected": [{"role": "assistant", "content": "Go."}],
}
SHARED = {
    "chosen": [USER, {"role": "assistant", "content": "Hello."}],
    "rejected": [USER, {"role": "assistant", "content": "Go."}],
}
BINARIZED = {"prompt": "Hi", "prompt_id": "1", "messages": SHARED["chosen"], "score_chosen": 8.0, **SHARED}
SCORED = {
    "instruction": "Hi",
    "completions": [
        {"response": "Hello.", "overall_score": 8.0},
        {"response": "Go.", "overall_score": 2.0},
        {"response": "Hm.", "overall_score": 2.0},
    ],
}
ALPACA = {"instruction": "Hi", "output_1": "Go.", "output_2": "Hello.", "preference": 2.0}
FEEDBACK = {"prompt": "Hi", "completion": "Hello.", "label": True}
CANONICAL = {"prompt": [USER], "reply_a": "Hello.", "reply_b": "Go.", "choice": "a", "rater": "ann"}

EXAMPLES: dict[str, dict[str, Any]] = {
    "hh_rlhf": HH,
    "pairs": PAIR,
    "pairs_conversational": CONVERSATIONAL,
    "scored": SCORED,
    "alpaca_eval": ALPACA,
    "feedback": FEEDBACK,
    "chat": CHAT,
    "canonical_preferences": CANONICAL,
    "canonical_demonstrations": {"prompt": [USER], "reply": "Hello."},
    "canonical_prompts": {"prompt": "Hi", "verifier": {"kind": "exact", "answer": "x"}},
    "canonical_safety": {"prompt": "Hi", "expected": "decline"},
    "canonical_solutions": {"prompt": "Hi", "steps": ["One.", "Two."], "labels": [True, False], "correct": None},
    **examples.EXAMPLES,
}


def convert(name: str, row: dict[str, Any]) -> list[Any]:
    return list(FORMATS[name].convert(row, "test"))


def test_every_format_has_an_example() -> None:
    assert EXAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_by_content_alone(name: str) -> None:
    assert formats.matching(EXAMPLES[name]) == [name]
    assert detect([EXAMPLES[name]] * 9 + [{"what": "else"}], "f").name == name
    assert convert(name, EXAMPLES[name]) or FORMATS[name].group


@pytest.mark.parametrize("row", [SHARED, BINARIZED])
def test_variants_of_conversational_pairs_are_recognised(row: dict[str, Any]) -> None:
    assert detect([row], "f").name == "pairs_conversational"


def test_a_mixed_or_unknown_file_is_an_error_that_names_what_was_seen() -> None:
    with pytest.raises(BadFileError, match="hh_rlhf in 6 of 10 rows, chat in 4 of 10 rows; split the file"):
        detect([HH] * 6 + [CHAT] * 4, "f")
    with pytest.raises(BadFileError, match="rows with the keys question are in no known format"):
        detect([{"question": "?"}], "f")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("hh_rlhf", HH),
        ("pairs", PAIR),
        ("pairs_conversational", CONVERSATIONAL),
        ("pairs_conversational", SHARED),
        ("pairs_conversational", BINARIZED),
        ("alpaca_eval", ALPACA),
        ("canonical_preferences", CANONICAL),
    ],
)
def test_the_better_reply_stays_the_better_one(name: str, row: dict[str, Any]) -> None:
    (record,) = convert(name, row)
    assert isinstance(record, Preference)
    better, worse = (record.reply_a, record.reply_b) if record.choice == "a" else (record.reply_b, record.reply_a)
    assert record.choice in ("a", "b")
    assert (better, worse) in {("Hello.", "Go."), ("Good bye.", "Go.")}
    assert record.prompt[0] == USER
    assert record.prompt[-1]["role"] == "user"


def test_hh_splits_at_the_last_reply() -> None:
    (record,) = convert("hh_rlhf", HH)
    assert [turn["content"] for turn in record.prompt] == ["Hi", "Hello.", "Bye"]


def test_an_explicit_prompt_may_be_a_transcript() -> None:
    (record,) = convert("pairs", {**PAIR, "prompt": "\n\nHuman: Hi\n\nAssistant:"})
    assert record.prompt == [USER]


def test_the_preferred_side_is_drawn_by_hash_and_about_even() -> None:
    choices = [convert("pairs", {**PAIR, "prompt": f"Hi {n}"})[0].choice for n in range(400)]
    assert 150 < choices.count("a") < 250
    assert choices == [convert("pairs", {**PAIR, "prompt": f"Hi {n}"})[0].choice for n in range(400)]


def test_scored_completions_give_every_pair_with_one_weight_in_all() -> None:
    records = convert("scored", SCORED)
    assert sum(record.weight for record in records) == pytest.approx(1)
    assert len({record.group for record in records}) == 1
    assert sorted(record.choice == "tie" for record in records) == [False, False, True]
    assert len({record.cluster for record in records}) == 1
    for record in records:
        if record.choice != "tie":
            assert (record.reply_a if record.choice == "a" else record.reply_b) == "Hello."


@pytest.mark.parametrize(
    ("preference", "better", "confidence"),
    [(1.0, "Go.", 1.0), (2.0, "Hello.", 1.0), (1.3, "Go.", 0.4), (1.75, "Hello.", 0.5), (1, "Go.", 1.0)],
)
def test_alpaca_preferences(preference: float, better: str, confidence: float) -> None:
    (record,) = convert("alpaca_eval", {**ALPACA, "preference": preference})
    assert (record.reply_a if record.choice == "a" else record.reply_b) == better
    assert record.confidence == pytest.approx(confidence)


def test_alpaca_ties_and_inputs() -> None:
    (record,) = convert("alpaca_eval", {**ALPACA, "preference": 1.5, "input": "there"})
    assert (record.choice, record.confidence) == ("tie", 1.0)
    assert record.prompt[0]["content"] == "Hi\n\nthere"


def test_feedback_says_whether_a_reply_was_liked() -> None:
    for row, desirable in (
        (FEEDBACK, True),
        ({**FEEDBACK, "label": False}, False),
        ({"prompt": "Hi", "response": "x", "desirable": True}, True),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": "Hello."}], "label": False}, False),
    ):
        (record,) = convert("feedback", row)
        assert isinstance(record, Feedback)
        assert (record.prompt, record.desirable, record.signal, record.weight) == ([USER], desirable, "explicit", 1.0)


def test_chat_ends_in_the_reply() -> None:
    (record,) = convert("chat", CHAT)
    assert (record.reply, [turn["role"] for turn in record.prompt]) == ("Hello.", ["system", "user"])


def test_canonical_keeps_what_is_given() -> None:
    given = {**CANONICAL, "id": "r1", "source": "x", "cluster": "c", "domain": "d", "confidence": 0.5}
    given |= {"created_at": "2026-01-02T03:04:05Z", "scores": {"helpfulness": [1, 0]}}
    given |= {"group": "g", "weight": 0.25, "seconds": 3, "licence": "mit"}
    (record,) = convert("canonical_preferences", given)
    assert (record.group, record.weight, record.seconds, record.licence) == ("g", 0.25, 3.0, "mit")
    assert (record.id, record.source, record.cluster, record.domain) == ("r1", "x", "c", "d")
    assert (record.confidence, record.rater, record.scores) == (0.5, "ann", '{"helpfulness": [1, 0]}')
    (item,) = convert("canonical_safety", EXAMPLES["canonical_safety"])
    assert isinstance(item, Safety)


ASSISTANT = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("pairs", {"prompt": None}, "missing_field"),
        ("pairs", {"rejected": None}, "missing_field"),
        ("pairs", {"chosen": 7}, "type"),
        ("pairs", {"prompt": 7}, "type"),
        ("pairs", {"chosen": " \n"}, "empty_text"),
        ("pairs", {"prompt": "  "}, "empty_prompt"),
        ("pairs", {"rejected": "  HELLO. "}, "identical_pair"),
        ("pairs", {"rejected": "Hello\u2024"}, "identical_pair"),  # a one dot leader, which NFKC folds to a stop
        ("hh_rlhf", {"chosen": "\n\nHuman: Hi\n\nHuman: Hi\n\nAssistant: x"}, "bad_dialogue"),
        ("hh_rlhf", {"chosen": "\n\nHuman: Hi\n\nAssistant: x\n\nHuman: y"}, "no_target"),
        ("hh_rlhf", {"chosen": "\n\nHuman: Other\n\nAssistant: x"}, "prompt_mismatch"),
        ("hh_rlhf", {"chosen": "no turns at all"}, "bad_dialogue"),
        ("hh_rlhf", {"chosen": "\n\nAssistant: x"}, "missing_field"),
        ("hh_rlhf", {"chosen": HH["chosen"][:-10]}, "empty_text"),
        ("hh_rlhf", {"chosen": HH["rejected"]}, "identical_pair"),
        ("pairs_conversational", {"prompt": [USER, USER]}, "bad_dialogue"),
        ("pairs_conversational", {"prompt": [USER, {"role": "system", "content": "x"}]}, "bad_dialogue"),
        ("pairs_conversational", {"prompt": [ASSISTANT]}, "bad_dialogue"),
        ("pairs_conversational", {"prompt": [{"role": "tool", "content": "x"}]}, "bad_dialogue"),
        ("pairs_conversational", {"prompt": [{"role": "user"}]}, "missing_field"),
        ("pairs_conversational", {"chosen": "text"}, "type"),
        ("chat", {"messages": [USER]}, "no_target"),
        ("chat", {"messages": []}, "empty_prompt"),
        ("chat", {"messages": [USER, {"role": "assistant", "content": ""}]}, "empty_text"),
        ("scored", {"completions": "text"}, "type"),
        ("scored", {"completions": [{"response": "x", "overall_score": 1.0}]}, "missing_field"),
        ("scored", {"completions": [{"response": "x", "overall_score": "N/A"}] * 2}, "type"),
        ("scored", {"completions": [{"response": "x", "overall_score": 1.0}] * 2}, "identical_pair"),
        ("alpaca_eval", {"preference": 3}, "bad_label"),
        ("alpaca_eval", {"preference": "2"}, "bad_label"),
        ("alpaca_eval", {"preference": 0.5}, "bad_label"),
        ("alpaca_eval", {"output_2": None}, "dangling_label"),
        ("feedback", {"label": "perhaps"}, "bad_label"),
        ("canonical_preferences", {"choice": "c"}, "bad_label"),
        ("canonical_preferences", {"choice": ["a"]}, "bad_label"),
        ("canonical_preferences", {"choice": None}, "missing_field"),
        ("canonical_preferences", {"reply_a": None}, "dangling_label"),
        ("canonical_preferences", {"reply_b": None}, "missing_field"),
        ("canonical_preferences", {"confidence": 1.5}, "range"),
        ("canonical_preferences", {"confidence": "high"}, "type"),
        ("canonical_preferences", {"confidence": True}, "type"),
        ("canonical_preferences", {"weight": -0.5}, "range"),
        ("canonical_preferences", {"seconds": "2"}, "type"),
        ("canonical_preferences", {"rater": ""}, "rater_unknown"),
        ("canonical_preferences", {"created_at": "2026-01-02T03:04:05"}, "time"),
        ("canonical_preferences", {"created_at": "1970-01-01T00:00:00Z"}, "time"),
        ("canonical_preferences", {"created_at": "yesterday"}, "time"),
        ("canonical_preferences", {"id": "../x"}, "bad_id"),
        ("canonical_preferences", {"id": "a/b"}, "bad_id"),
        ("canonical_preferences", {"id": ["x"]}, "type"),
        ("canonical_safety", {"expected": "maybe"}, "bad_label"),
        ("canonical_solutions", {"prompt": None}, "missing_field"),
        ("canonical_solutions", {"steps": "One."}, "type"),
        ("canonical_solutions", {"steps": []}, "empty_text"),
        ("canonical_solutions", {"steps": ["One.", " \n"]}, "empty_text"),
        ("canonical_solutions", {"labels": [True]}, "label_count"),
        ("canonical_solutions", {"labels": "good"}, "type"),
        ("canonical_solutions", {"labels": [True, "bad"]}, "bad_label"),
        ("canonical_solutions", {"labels": [True, 0]}, "bad_label"),
        ("canonical_solutions", {"correct": "yes"}, "bad_label"),
        ("canonical_solutions", {"labels": None}, "unlabelled"),
    ],
)
def test_a_bad_row_gets_its_reason(name: str, change: dict[str, Any], reason: str) -> None:
    row = {key: value for key, value in {**EXAMPLES[name], **change}.items() if value is not None}
    with pytest.raises(RefusedError) as caught:
        convert(name, row)
    assert caught.value.reason == reason


def test_steps_are_lines_and_have_a_second_name() -> None:
    (record,) = convert(
        "canonical_solutions", {"prompt": "Hi", "steps": ["One\nand a half.", "Two."], "correct": False}
    )
    assert record.steps == ["One and a half.", "Two."]
    assert (record.labels, record.correct, record.reply) == ([None, None], False, "One and a half.\nTwo.")
    stepwise = {"prompt": "Hi", "completions": ["One.", "Two."], "labels": [True, False]}  # as TRL has it
    form = detect([stepwise], "x")
    assert form.name == "canonical_solutions"
    (same,) = form.convert(stepwise, "test")
    (named,) = convert("canonical_solutions", EXAMPLES["canonical_solutions"])
    assert same == named
    assert not stepwise.keys() - form.fields


def test_a_tie_may_be_between_equal_replies() -> None:
    (record,) = convert("canonical_preferences", {**CANONICAL, "reply_b": "Hello.", "choice": "tie"})
    assert record.choice == "tie"


def test_dialogues_that_begin_alike_share_a_cluster() -> None:
    (longer,) = convert("hh_rlhf", HH)
    (shorter,) = pair_formats.pairs({**PAIR, "prompt": " HI "}, "test")
    assert longer.cluster == shorter.cluster
