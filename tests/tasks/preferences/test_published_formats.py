"""Formats of published datasets and labelling tools: what each label means, on rows as they are found."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.preferences import people
from tasks.preferences.formats import FORMATS, Dropped, detect
from tasks.preferences.people import person
from tasks.preferences.screen import BadFileError, RefusedError
from tasks.records import Demonstration, Feedback, Preference, read_table
from tests.tasks.preferences import examples
from tests.tasks.preferences.examples import EXAMPLES, GO, HELLO, USER
from tests.tasks.preferences.test_sources import quarantine, take


def convert(name: str, row: dict[str, Any]) -> list[Any]:
    return list(FORMATS[name].convert(row, "test"))


def won(record: Preference) -> str:
    return record.reply_a if record.choice == "a" else record.reply_b


ANN = f"label-studio:{person('ann@example.org')}"
PAIRED = set(EXAMPLES) - {"canonical_feedback", "rankings", "oasst_messages", "helpsteer", "sharegpt", "alpaca"}


@pytest.mark.parametrize("name", sorted(PAIRED - {"prompt_completion"}))
def test_the_better_reply_wins(name: str) -> None:
    (record,) = [found for found in convert(name, EXAMPLES[name]) if not isinstance(found, Dropped)]
    assert isinstance(record, Preference)
    assert record.choice in ("a", "b")
    assert (won(record), record.prompt[-1]["role"]) == ("Hello.", "user")
    assert {record.reply_a, record.reply_b} == {"Hello.", "Go."}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_columns_in_any_order_with_strange_ones_among_them_are_recognised(name: str) -> None:
    row = {"zzz": {"a": [1]}, **dict(reversed(EXAMPLES[name].items())), "row_number": 3}
    assert detect([row] * 3, "f").name == name


@pytest.mark.parametrize("row", [examples.ARGILLA_V1, examples.ARGILLA_HUB_V1, examples.HELPSTEER3])
def test_older_and_newer_shapes_of_a_format_are_known(row: dict[str, Any]) -> None:
    name = detect([row], "f").name
    assert name in ("argilla", "argilla_hub", "helpsteer_preference")
    (record,) = [found for found in convert(name, row) if not isinstance(found, Dropped)]
    assert won(record) == "Hello."


@pytest.mark.parametrize("name", examples.PAIRS)
def test_pairs_go_by_several_names(name: str) -> None:
    form = detect([examples.PAIRS[name]], "f").name
    (record,) = convert(form, examples.PAIRS[name])
    assert (record.prompt, won(record)) == ([USER], "Hello.")
    assert {record.reply_a, record.reply_b} == {"Hello.", "Go."}


@pytest.mark.parametrize(
    "scores", ["{}_avg_rating", "{}_reward", "score_{}", "{}_score", "{}_rating", "rating_{}", "{}-rating"]
)
def test_equal_scores_of_a_pair_are_a_tie(scores: str) -> None:
    row = {"prompt": "Hi", **examples.HH, **{scores.format(name): 8.0 for name in examples.HH}}
    (record,) = convert("pairs", row)
    assert (record.choice, json.loads(record.scores)) == ("tie", {"overall": [8.0, 8.0]})
    assert convert("pairs", row | {scores.format("rejected"): 2.0})[0].choice != "tie"
    assert convert("pairs", {"prompt": "Hi", **examples.HH, "status": "tie"})[0].choice == "tie"


def test_a_prompt_that_the_dialogues_do_not_hold_is_refused() -> None:
    whole = {"prompt": "Else", "chosen": [USER, HELLO], "rejected": [USER, GO]}
    texts = {"prompt": "Else", **{k: f"\n\nHuman: Hi\n\nAssistant: {t}" for k, t in examples.HH.items()}}
    for name, row in (("pairs_conversational", whole), ("pairs", texts)):
        assert detect([row], "f").name == name
        with pytest.raises(RefusedError, match="prompt_mismatch"):
            convert(name, row)


BESIDE = {"system": "Be kind.", "history": [["Before?", "Yes."]]}
CONTEXTS: dict[str, dict[str, Any]] = {
    "pairs": {"prompt": "Hi", **examples.HH},
    "pairs_conversational": {"prompt": [USER], "chosen": [HELLO], "rejected": [GO]},
    "sharegpt_pairs": EXAMPLES["sharegpt_pairs"],
    "chat": {"messages": [USER, HELLO]},
    "sharegpt": examples.SHAREGPT,
    "alpaca": examples.ALPACA_DEMO,
    "prompt_completion": {"prompt": "Hi", "completion": "Hello."},
    "feedback": {"prompt": "Hi", "completion": "Hello.", "label": True},
    "votes": examples.VOTES,
    "rankings": {"prompt": "Hi", "replies": ["Hello.", "Go."], "scores": [2, 1]},
    "scored": {"instruction": "Hi", "completions": [{"response": t, "score": len(t)} for t in ("Hello.", "Go.")]},
    "nectar": {"prompt": "Hi", "answers": [{"answer": t, "rank": 5.0 - len(t)} for t in ("Hello.", "Go.")]},
    "alpaca_eval": {"instruction": "Hi", "output_1": "Hello.", "output_2": "Go.", "preference": 1},
    "label_studio": {**examples.LABEL_STUDIO, "data": {**examples.LABEL_STUDIO["data"], **BESIDE}},
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_what_was_said_before_is_part_of_the_prompt(name: str) -> None:
    row = CONTEXTS[name] | BESIDE
    assert detect([row], "f").name == name
    assert [(turn["role"], turn["content"]) for turn in convert(name, row)[0].prompt] == [
        ("system", "Be kind."),
        ("user", "Before?"),
        ("assistant", "Yes."),
        ("user", "Hi"),
    ]


@pytest.mark.parametrize("name", ["pairs", "pairs_conversational", "alpaca_eval", "feedback", "votes"])
def test_votes_of_two_raters_are_two(name: str) -> None:
    said = {"confidence": 0.5, "weight": 0.25, "created_at": "2026-01-02T03:04:05Z"}
    row = {key: value for key, value in CONTEXTS[name].items() if key != "annotator"}
    one, two = (convert(name, row | said | {"annotator": rater})[0] for rater in (7, "bob"))
    assert (one.rater, two.rater) == ("7", "bob")
    assert one.id != two.id
    assert (one.weight, one.created_at) == (0.25, "2026-01-02T03:04:05Z")
    if name not in ("alpaca_eval", "feedback"):  # the one has its own, the other none
        assert one.confidence == 0.5


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "response": "Go.", "rating": 1},
        {"prompt": "Hi", "completion": "Go.", "score": 0.1},
        {"messages": [USER, GO], "rating": 1},
        {"prompt": "Hi", "pick": "Hello there, how are you today?", "drop": "Go away."},
        {"prompt": "Hi", "Chosen": "Hello there.", "Rejected": "Go away."},
        {"prompt": "Hi", "replies_of_models": ["Hello.", "Go."]},
        {"prompt": "Hi", "Antwort A": "Ja.", "Antwort B": "Nein.", "Bevorzugt": "A"},
        {"prompt": "Hi", "pos_resp": "Hello.", "neg_resp": "Go."},
        {"prompt": "Hi", "anders": "\u56e0\u4e3a\u6708\u4eae\u548c\u592a\u9633\u7684\u5f15\u529b\u3002"},
    ],
)
def test_what_nobody_can_be_sure_of_is_in_no_known_format(row: dict[str, Any]) -> None:
    with pytest.raises(BadFileError, match="in no known format"):
        detect([row], "f")


def test_prompts_may_say_what_they_are_about() -> None:
    row = {"prompt": "Hi", "prompt_id": "7", "category": "open qa", "split": "train", "turns": 1, "url": None}
    assert detect([row], "f").name == "canonical_prompts"


def test_a_row_in_another_format_than_its_file_is_refused(tmp_path: Path) -> None:
    good = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]
    others = [{"prompt": "Why?", **examples.HH}, {"prompt": "Why?", "completion": "BAD", "score": 0.1}]
    tallies, folder = take(tmp_path, [*good, *others], rate=0.1)
    assert quarantine(folder) == [(41, "other_format"), (42, "other_format")]
    assert tallies["s0"].records["demonstrations"] == 40


def test_where_some_replies_are_judged_the_others_are_not_yet(tmp_path: Path) -> None:
    asked = [{"prompt": f"What is {n}?", "response": f"It is {n}.", "thumbs_up": None} for n in range(20)]
    asked[7]["thumbs_up"] = False
    tallies, folder = take(tmp_path, asked, rate=0.0)
    assert (tallies["s0"].format, tallies["s0"].records["feedback"]) == ("feedback", 1)
    assert {reason for _, reason in quarantine(folder)} == {"unanswered"}


def test_a_history_stands_once_before_the_question() -> None:
    earlier = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    history = [["q1", "a1"]]
    rows: list[tuple[str, dict[str, Any]]] = [
        ("prompt_completion", {"prompt": "Hi", "completion": [HELLO], "history": history}),
        ("feedback", {"prompt": "Hi", "completion": [HELLO], "label": True, "history": history}),
        ("chat", {"messages": [*earlier, USER, HELLO], "history": history}),
        ("pairs_conversational", {k: [*earlier, USER, v] for k, v in (("chosen", HELLO), ("rejected", GO))}),
        ("votes", {"history": [*earlier, USER], "response_a": "Go.", "response_b": "Hello.", "choice": "b"}),
    ]
    for name, row in rows:
        assert detect([row], "f").name == name
        assert convert(name, row | {"history": row.get("history", history)})[0].prompt == [*earlier, USER], name
    for other in (["created", "edited"], [{"date": "2026-01-01"}], "long ago"):
        assert convert("chat", {"messages": [USER, HELLO], "history": other})[0].prompt == [USER]


@pytest.mark.parametrize("missing", ["annotator", "lead_time"])
def test_exports_of_label_studio_may_lack_a_column(missing: str) -> None:
    row = {key: value for key, value in examples.LABEL_STUDIO_MIN.items() if key != missing}
    assert detect([row], "f").name == "label_studio_min"


def test_raters_are_numbers_or_names_and_never_addresses() -> None:
    def rater(**who: Any) -> str:
        found = convert("votes", {k: v for k, v in examples.VOTES.items() if k != "annotator"} | who)[0].rater
        assert isinstance(found, str)
        return found

    assert rater(annotator=3.0) == rater(annotator="3") == "3"
    assert rater(annotator="007") == "007"
    assert rater(rater="", annotator="bob") == "bob"
    assert rater(rater=False) == rater(rater=["bob"]) == "source:test"
    assert "@" not in rater(annotator="ann@example.com")


@pytest.mark.parametrize("said", ["<b>A</b>", "A <-> B", "A -> B", "A>=B", "No <b>", "?", "是", "A > A"])
def test_what_says_no_side_is_no_verdict(said: str) -> None:
    with pytest.raises(RefusedError, match="bad_label"):
        convert("votes", {**examples.VOTES, "winner": said})
    items = [{"id": "x", "body": "Go."}, {"id": "y", "body": "Hm."}]
    assert asked(("preference", said), data={"prompt": "Hi", "items": items}) == [Dropped("unreadable_answer")]


@pytest.mark.parametrize(
    "beside",
    [
        {"instruction_id_list": ["a:b"], "kwargs": [{"n": 3}]},
        {"act": "Linux Terminal"},
        {"tools": [], "timestamp": "2024-01-01 00:00:00", "country": "United States"},
        {"solution": "It is so because of what was said before."},
    ],
)
def test_prompts_carry_columns_of_their_own(beside: dict[str, Any]) -> None:
    assert detect([{"prompt": "Hi", **beside}], "f").name == "canonical_prompts"


@pytest.mark.parametrize("prompt", ["", {"x": 1}, [USER, HELLO], "User: Hi\nAssistant:", "<|user|>\nHi</s>"])
def test_a_prompt_that_cannot_be_read_contradicts_no_dialogue(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": [USER, HELLO], "rejected": [USER, GO]}
    (record,) = convert("pairs_conversational", row)
    assert record.prompt == [USER]


def test_a_topic_is_no_verdict_and_safe_is_one() -> None:
    assert detect([{"instruction": "Hi", "output": "Hello.", "label": "physics"}], "f").name == "alpaca"
    assert detect([{"messages": [USER, HELLO], "label": "physics"}], "f").name == "chat"
    said = {"prompt": "Hi", "completion": "Hello."}
    assert [convert("feedback", said | {"label": word})[0].desirable for word in ("safe", "unsafe")] == [True, False]


def test_what_a_task_is_done_to_is_part_of_its_prompt() -> None:
    row = {"prompt": "Translate", "input": "Good morning", "completion": "Bonjour"}
    assert convert("prompt_completion", row)[0].prompt[0]["content"] == "Translate\n\nGood morning"
    whole = row | {"prompt": "Translate: Good morning"}
    assert convert("prompt_completion", whole)[0].prompt[0]["content"] == "Translate: Good morning"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("oasst_tree", {"prompt": {"message_id": "m", "text": "Hi", "role": "prompter", "replies": 5}}),
        ("rankings", {"group": 7}),
    ],
)
def test_odd_values_are_of_a_wrong_type(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="type"):
        convert(name, changed(name, **change))


def test_what_json_in_a_text_says_is_screened() -> None:
    with pytest.raises(RefusedError, match="bad_unicode"):
        convert("arena_winners", changed("arena_winners", prompt='["\\ud800"]'))


def test_a_key_that_is_null_is_not_there(tmp_path: Path) -> None:
    row = {"prompt": "Hi", **examples.HH, "completion": None, "label": None, "reply_a": None, "choice": None}
    tallies, _ = take(tmp_path, [row])
    assert (tallies["s0"].format, tallies["s0"].records["preferences"]) == ("pairs", 1)


def test_completions_without_a_text_or_a_score_are_left_out() -> None:
    scores: list[Any] = [8.5, "2", "N/A", 5]
    completions = [{"response": f"Say {n}.", "overall_score": score} for n, score in enumerate(scores)]
    completions[3]["response"] = " "
    record, *dropped = convert("scored", {"instruction": "Hi", "completions": completions})
    assert (won(record), {record.reply_a, record.reply_b}) == ("Say 0.", {"Say 0.", "Say 1."})
    assert dropped == [Dropped("type"), Dropped("empty_text")]


def test_first_files_of_alpaca_eval_have_0_for_a_tie() -> None:
    row = CONTEXTS["alpaca_eval"]
    assert convert("alpaca_eval", row | {"preference": 0})[0].choice == "tie"
    assert convert("alpaca_eval", row | {"preference": None}) == [Dropped("unanswered")]
    assert convert("votes", {**examples.VOTES, "winner": None}) == [Dropped("unanswered")]


def test_the_input_of_an_instruction_is_part_of_the_prompt() -> None:
    said: list[dict[str, Any]] = [examples.HH, CONTEXTS["rankings"], CONTEXTS["scored"], CONTEXTS["nectar"]]
    for row in ({**each, "prompt": None, "instruction": "Hi", "input": "you"} for each in said):
        (record,) = convert(detect([row], "f").name, row)
        assert (record.prompt, won(record)) == ([{"role": "user", "content": "Hi\n\nyou"}], "Hello.")


@pytest.mark.parametrize("name", examples.LIKED)
def test_a_judged_reply_is_no_demonstration(name: str) -> None:
    row, liked = examples.LIKED[name]
    assert detect([row], "f").name == "feedback"
    (record,) = convert("feedback", row)
    assert isinstance(record, Feedback)
    assert (record.desirable, record.prompt) == (liked, [USER])


@pytest.mark.parametrize(
    "beside",
    [
        {"human_score": 2},
        {"quality": "bad"},
        {"Thumb rating": "down"},
        {"accepted": False},
        {"upvotes": 0},
        {"dislikes": 3},
        {"review_feedback": {"rating": "thumbs_down", "reason": "wrong"}},
        {"is_toxic": True},
        {"toxicity": 0.9},
        {"response_harm_label": "harmful"},
        {"rank": 2},
        {"is_best": False},
        {"status": "Rejected"},
        {"type": "chosen"},
    ],
)
def test_a_reply_that_some_column_judges_is_no_demonstration(beside: dict[str, Any]) -> None:
    shapes: list[dict[str, Any]] = [EXAMPLES["prompt_completion"], examples.ALPACA_DEMO, {"messages": [USER, HELLO]}]
    for row in (*shapes, examples.SHAREGPT):
        assert detect([row], "f").name in ("prompt_completion", "alpaca", "chat", "sharegpt")
        with pytest.raises(BadFileError, match=f"`{next(iter(beside))}` judges the reply"):
            detect([row | beside], "f")
    with pytest.raises(BadFileError, match=f"`messages.{next(iter(beside))}` judges the reply"):
        detect([{"messages": [USER, HELLO | beside]}], "f")


@pytest.mark.parametrize(
    "beside",
    [
        {"input_quality": "good", "prompt_label": "unsafe", "difficulty_score": 3, "instruct_reward": -2.5},
        {"toxic": False, "response_harm_label": "unharmful", "quality_notes": "It greets.", "likelihood": 0.5},
        {"answers_accepted_by": "ann", "reward_model": "m-1", "feedback": "It greets."},
    ],
)
def test_what_is_said_of_the_prompt_or_in_prose_judges_no_reply(beside: dict[str, Any]) -> None:
    assert detect([EXAMPLES["prompt_completion"] | beside], "f").name == "prompt_completion"


def test_words_about_a_reply_are_no_verdict() -> None:
    assert detect([{"prompt": "Hi", "response": "Hello.", "feedback": "It greets."}], "f").name == "prompt_completion"


@pytest.mark.parametrize(
    ("names", "said", "choice"),
    [
        (("response_a", "response_b"), "A", "a"),
        (("response_a", "response_b"), "Response B", "b"),
        (("response_a", "response_b"), "model_b", "b"),
        (("response_a", "response_b"), "tie", "tie"),
        (("response_a", "response_b"), "both bad", "both_bad"),
        (("response_a", "response_b"), 1, None),  # the first, or the second?
        (("response_a", "response_b"), "0", None),
        (("completion_1", "completion_2"), 2, "b"),
        (("completion_1", "completion_2"), 2.0, "b"),
        (("completion_1", "completion_2"), 0, None),
        (("answer_0", "answer_1"), 1, "b"),
        (("output1", "output2"), "output2", "b"),
        (("response_a", "response_b"), "c", None),
        (("response_a", "response_b"), True, None),
        (("response_a", "response_b"), ["a"], "a"),
        (("Response A", "Response B"), "Response B is slightly better than Response A", "b"),
        (("response_1", "response_2"), "1 is better than 2", "a"),
        (("response_a", "response_b"), "A is worse than B", None),
        (("response_a", "response_b"), -1, None),  # of a scale, whose ends nobody named
        (("response_a", "response_b"), -2.0, None),
        (("response_1", "response_2"), -2, None),
        (("response_1", "response_2"), "+1", None),
        (("response_1", "response_2"), "\u22122", None),
    ],
)
def test_a_vote_means_what_it_says(names: tuple[str, str], said: Any, choice: str | None) -> None:
    row = {"prompt": "Hi", names[0]: "Go.", names[1]: "Hello.", "label": said}
    if choice is None:
        with pytest.raises(RefusedError, match="bad_label"):
            convert("votes", row)
    else:
        (record,) = convert("votes", row)
        assert (record.choice, record.reply_a) == (choice, "Go.")


@pytest.mark.parametrize("name", ["preference_strength", "overall_preference"])
def test_how_strong_a_vote_is_does_not_say_for_which_side(name: str) -> None:
    row = {"prompt": "Hi", "response_1": "Hello.", "response_2": "Go.", "preferred": "response_1", name: 3}
    (record,) = convert(detect([row], "f").name, row)
    assert (record.choice, record.reply_a) == ("a", "Hello.")
    pair = {"prompt": "Hi", **examples.HH, name: 3}
    assert [won(record) for record in convert(detect([pair], "f").name, pair)] == ["Hello."]


@pytest.mark.parametrize(("label", "choice"), [(1, "a"), (2, "b"), ("output_2", "b")])
def test_two_outputs_with_a_label_are_votes(label: Any, choice: str) -> None:
    row = {"instruction": "Hi", "input": "you", "output_1": "Go.", "output_2": "Hello.", "label": label}
    (record,) = convert(detect([row], "f").name, row)
    assert (record.choice, record.reply_a, record.prompt[0]["content"]) == (choice, "Go.", "Hi\n\nyou")


def test_votes_name_their_rater() -> None:
    assert convert("votes", examples.VOTES)[0].rater == "3"
    assert convert("votes", {**examples.VOTES, "annotator": " "})[0].rater == "source:test"


def changed(name: str, **change: Any) -> dict[str, Any]:
    return {**EXAMPLES[name], **change}


@pytest.mark.parametrize(
    ("name", "change", "choice"),
    [
        ("arena", {"winner": "tie"}, "tie"),
        ("arena", {"winner": "tie (bothbad)"}, "both_bad"),
        ("arena", {"winner": "both_bad"}, "both_bad"),
        ("arena_winners", {"winner_model_a": 0, "winner_tie": 1}, "tie"),
        ("webgpt", {"score_0": 0.0, "score_1": 0.0}, "tie"),
        ("helpsteer_preference", {"preference_strength": 0}, "tie"),
        ("helpsteer_preference", {"preference_strength": -1}, "a"),
        ("shp", {"labels": 0}, "b"),
        ("pku_safe_rlhf", {"better_response_id": 0}, "a"),
        ("summarize_from_feedback", {"choice": 0}, "a"),
    ],
)
def test_labels_mean_what_their_authors_say(name: str, change: dict[str, Any], choice: str) -> None:
    (record,) = convert(name, changed(name, **change))
    assert record.choice == choice


def test_strengths_become_confidence_and_scores_of_objectives_follow_their_reply() -> None:
    assert convert("helpsteer_preference", examples.HELPSTEER2_PREFERENCE)[0].confidence == pytest.approx(2 / 3)
    assert convert("shp", examples.SHP)[0].confidence == pytest.approx(3 / 5)
    (pku,) = convert("pku_safe_rlhf", changed("pku_safe_rlhf", better_response_id=0))
    assert json.loads(pku.scores) == {"helpfulness": [1.0, 0.0], "safety": [0.0, 1.0]}
    binarised = {
        "prompt": "Hi",
        "chosen": [USER, HELLO],
        "rejected": [USER, GO],
        "score_chosen": 8,
        "score_rejected": 2,
    }
    (record,) = convert("pairs_conversational", binarised)
    assert json.loads(record.scores)["overall"][record.reply_a == "Go."] == 8
    assert convert("pairs_conversational", binarised | {"score_rejected": 8})[0].choice == "tie"
    aspects = [
        {"response": text, "overall_score": score, "annotations": {"honesty": {"Rating": str(score), "Rationale": "x"}}}
        for text, score in (("Hello.", 5), ("Go.", 1))
    ]
    (record,) = convert("scored", {"instruction": "Hi", "completions": aspects})
    assert json.loads(record.scores)["honesty"][record.reply_a == "Go."] == 5


def test_a_ranking_gives_every_pair_of_one_group_and_a_weight_of_one_in_all() -> None:
    records = convert("rankings", examples.RANKINGS)
    assert [record.weight for record in records] == pytest.approx([1 / 3] * 3)
    assert len({record.group for record in records}) == len({record.cluster for record in records}) == 1
    assert {record.rater for record in records} == {"ann"}
    assert sorted(won(record) if record.choice != "tie" else "tie" for record in records) == ["Hello.", "Hello.", "tie"]
    same = {"prompt": "Hi", "replies": ["Hm.", "Hello.", "Go."], "rater": "ann"}
    for other in ({"order": [1, [0, 2]]}, {"scores": [0.5, 0.9, 0.5]}):
        assert [(r.choice, r.reply_a) for r in convert("rankings", same | other)] == [
            (r.choice, r.reply_a) for r in records
        ]


@pytest.mark.parametrize("name", ["ratings", "rating"])
def test_what_a_judge_gave_no_score_is_left_out(name: str) -> None:
    row = {
        "input": "Hi",
        "generations": ["Hm.", "Hello.", None, "Go."],
        name: [2.0, 5.0, None, 1.0],
        "rationales": ["x"],
    }
    *records, dropped = convert(detect([row], "f").name, row)
    assert [won(record) for record in records] == ["Hello.", "Hm.", "Hello."]
    assert ([record.weight for record in records], dropped) == (pytest.approx([1 / 3] * 3), Dropped("unanswered"))
    assert convert("rankings", row | {name: [None, 5.0, None, None]}) == [Dropped("unanswered")]


def test_a_reply_that_stands_in_a_ranking_twice_counts_once(tmp_path: Path) -> None:
    ranked = {"prompt": "Hi", "replies": ["Hello.", "Go.", "go. ", "Hm."], "ranks": [1, 3, 3, 2], "rater": "ann"}
    records = [found for found in convert("rankings", ranked) if isinstance(found, Preference)]
    assert [record.weight for record in records] == pytest.approx([1 / 3] * 3)
    assert sorted(map(won, records)) == ["Hello.", "Hello.", "Hm."]
    tallies, _ = take(tmp_path, [ranked, ranked | {"prompt": "Ho"}])
    assert (tallies["s0"].accepted, tallies["s0"].records["preferences"]) == (2, 6)
    assert tallies["s0"].warnings == {"dropped_repeated_reply": 2}


def test_what_copies_of_a_reply_contradict_says_nothing(tmp_path: Path) -> None:
    ranked = {"prompt": "Hi", "replies": ["Hello.", "Go.", "Hm.", "hello."], "ranks": [1, 4, 2, 3], "rater": "ann"}
    records = [found for found in convert("rankings", ranked) if isinstance(found, Preference)]
    assert [(won(record), record.weight) for record in records] == [
        ("Hello.", pytest.approx(1 / 3)),
        ("Hm.", pytest.approx(1 / 3)),
    ]
    tallies, _ = take(tmp_path, [ranked])
    assert tallies["s0"].warnings == {"dropped_repeated_reply": 1, "dropped_self_contradiction": 1}
    with pytest.raises(RefusedError, match="self_contradiction"):
        convert("rankings", ranked | {"replies": ["Hello.", "Hm.", "Hello."], "ranks": [1, 2, 3]})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ranks": [1, 2]}, "label_count"),
        ({"ranks": [1, 2, "x"]}, "bad_label"),
        ({"ranks": None}, "missing_field"),
        ({"replies": ["one"], "ranks": [1]}, "missing_field"),
        ({"replies": "one"}, "type"),
        ({"replies": ["a", "A ", "a"]}, "identical_pair"),
        ({"replies": ["a", " ", "b"]}, "empty_text"),
        ({"ranks": None, "order": [0, 1, 7]}, "dangling_label"),
        ({"ranks": None, "order": [0, 1, 1]}, "bad_label"),
        ({"ranks": None, "order": [0, 1]}, "label_count"),
        ({"rater": ""}, "rater_unknown"),
        ({"confidence": 3}, "range"),
    ],
)
def test_a_bad_ranking_gets_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        convert("rankings", {k: v for k, v in {**examples.RANKINGS, **change}.items() if v is not None})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("pku_safe_rlhf", {"better_response_id": 2}, "bad_label"),
        ("pku_safe_rlhf", {"better_response_id": None}, "missing_field"),
        ("pku_safe_rlhf", {"response_1": None}, "dangling_label"),
        ("pku_safe_rlhf", {"response_0": None}, "missing_field"),
        ("pku_safe_rlhf", {"response_0": "hello. "}, "identical_pair"),
        ("shp", {"labels": "A"}, "bad_label"),
        ("shp", {"score_ratio": "2"}, "type"),
        ("shp", {"history": ""}, "empty_prompt"),
        ("summarize_from_feedback", {"choice": 3}, "bad_label"),
        ("summarize_from_feedback", {"summaries": [{"text": "x"}]}, "dangling_label"),
        ("webgpt", {"score_1": None}, "missing_field"),
        ("webgpt", {"score_1": "1"}, "type"),
        ("arena", {"winner": "neither of them"}, "bad_label"),
        ("arena", {"conversation_a": [USER, USER]}, "no_target"),
        ("arena", {"conversation_a": [{"role": "user", "content": "Else"}, GO]}, "prompt_mismatch"),
        ("arena_winners", {"winner_tie": 1}, "bad_label"),
        ("helpsteer_preference", {"preference_strength": 4}, "range"),
        ("nectar", {"answers": [{"answer": "x", "rank": "1"}] * 2}, "type"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "no_target"),
        ("sharegpt", {"conversations": [{"from": "robot", "value": "x"}]}, "bad_dialogue"),
        ("alpaca", {"output": " "}, "empty_text"),
        ("prompt_completion", {"completion": 7}, "type"),
        ("canonical_feedback", {"desirable": "yes"}, "bad_label"),
        ("canonical_feedback", {"signal": "telepathy"}, "bad_label"),
        ("canonical_feedback", {"noise": 0.6}, "range"),
        ("label_studio", {"data": "text"}, "type"),
        ("label_studio", {"annotations": "text"}, "type"),
        ("argilla", {"fields": None}, "missing_field"),
        ("votes", {"winner": "c"}, "bad_label"),
        ("votes", {"answer_b": None}, "missing_field"),
        ("votes", {"answer_b": 5}, "type"),
        ("votes", {"question": ""}, "empty_prompt"),
    ],
)
def test_a_bad_row_gets_its_reason(name: str, change: dict[str, Any], reason: str) -> None:
    row = {key: value for key, value in changed(name, **change).items() if value is not None}
    with pytest.raises(RefusedError) as caught:
        convert(name, row)
    assert caught.value.reason == reason


def test_demonstrations_in_every_shape() -> None:
    for name, row in (
        ("sharegpt", examples.SHAREGPT),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": "So?"}, *examples.SHAREGPT["conversations"]]}),
        ("alpaca", examples.ALPACA_DEMO),
        ("prompt_completion", EXAMPLES["prompt_completion"]),
        ("prompt_completion", {"prompt": [USER], "completion": [HELLO]}),
        ("prompt_completion", {"question": "Hi", "answer": "Hello."}),
        ("prompt_completion", {"instruction": "Hi", "context": "", "response": "Hello.", "category": "open_qa"}),
    ):
        assert detect([row], "f").name == name
        record = convert(name, row)[0]
        assert isinstance(record, Demonstration)
        assert (record.prompt, record.reply) == ([USER], "Hello.")
    assert convert("alpaca", {**examples.ALPACA_DEMO, "input": "you"})[0].prompt[0]["content"] == "Hi\n\nyou"


def answered(**values: Any) -> dict[str, Any]:
    """A task of Label Studio whose one annotation says this; type: value."""
    row = copy.deepcopy(examples.LABEL_STUDIO)
    result = [{"type": kind, "from_name": "q", "to_name": "answer1", "value": value} for kind, value in values.items()]
    row["annotations"][0]["result"] = result
    return row


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ({"pairwise": {"selected": "left"}}, "a"),
        ({"choices": {"choices": ["answer2"]}}, "b"),
        ({"choices": {"choices": ["Response A is better"]}}, "a"),
        ({"choices": {"choices": ["2"]}}, "b"),
        ({"choices": {"choices": ["Tie"]}}, "tie"),
        ({"choices": {"choices": ["Both bad"]}}, "both_bad"),
        ({"choices": {"choices": ["Neither"]}}, "both_bad"),
        ({"choices": {"choices": ["Not sure"]}}, "unsure"),
    ],
)
def test_label_studio_answers(value: dict[str, Any], choice: str) -> None:
    (record,) = convert("label_studio", answered(**value))
    assert (record.choice, record.reply_a, record.rater) == (choice, "Go.", ANN)
    assert (record.seconds, record.created_at) == (4.288, "2024-03-09T22:16:08.728353Z")


def test_label_studio_ranker_ratings_and_single_replies() -> None:
    row = answered(ranker={"ranker": {"rank": ["y", "x"], "_": ["z"]}})
    row["data"] = {"prompt": "Hi", "items": [{"id": "x", "title": "One", "body": "Go."}, {"id": "y", "body": "Hello."}]}
    (record,) = convert("label_studio", row)
    assert won(record) == "Hello."
    stars = answered()
    stars["annotations"][0]["result"] = [
        {"type": "rating", "from_name": f"helpfulness_{n}", "to_name": f"answer{n}", "value": {"rating": n}}
        for n in (1, 2)
    ]
    (record,) = convert("label_studio", stars)
    assert (won(record), record.rater) == ("Hello.", ANN)
    assert json.loads(record.scores)["helpfulness"][record.reply_a == "Go."] == 2
    for kind, value, desirable in (("rating", 5, True), ("rating", 1, False), ("choices", ["Good"], True)):
        single = answered(**{kind: {kind: value}})
        single["data"] = {"prompt": "Hi", "response": "Hello."}
        (record,) = convert("label_studio", single)
        assert isinstance(record, Feedback)
        assert (record.desirable, record.signal, record.rater) == (desirable, "explicit", ANN)


def asked(*questions: tuple[str, Any], data: dict[str, Any] | None = None) -> list[Any]:
    """What a task of Label Studio gives whose questions were answered so: by a word, or with stars."""
    row = answered()
    row["data"] = data or row["data"]
    row["annotations"][0]["result"] = [
        {"type": "rating", "from_name": name, "to_name": "prompt", "value": {"rating": said}}
        if isinstance(said, int)
        else {"type": "choices", "from_name": name, "to_name": "prompt", "value": {"choices": [said]}}
        for name, said in questions
    ]
    return convert("label_studio", row)


SINGLE = {"prompt": "Hi", "model": "gpt-4", "response": "Hello."}


def test_who_wrote_a_reply_is_not_the_reply() -> None:
    data = {"prompt": "Hi", "model_a": "gpt-4", "model_b": "llama", "response_a": "Go.", "response_b": "Hello."}
    (record,) = asked(("preference", "B"), data=data)
    assert (record.reply_a, record.reply_b) == ("Go.", "Hello.")
    assert asked(("quality", 5), data=SINGLE)[0].reply == "Hello."


@pytest.mark.parametrize(
    ("questions", "choice"),
    [
        ([("which_is_longer", "Answer 1"), ("preference", "Answer 2")], "b"),
        ([("harmful_content", "None"), ("preference", "Answer 2")], "b"),
        ([("topic", "similar"), ("overall", "Answer 1")], "a"),
        ([("preference", "A > B")], "a"),
        ([("preference", "1 << 2")], "b"),
        ([("preference", "Strongly prefer B")], "b"),
        ([("preference", "About equal")], "tie"),
        ([("preference", "Neither is good")], "both_bad"),
        ([("toxicity_1", 5), ("toxicity_2", 1), ("helpfulness_1", 2), ("helpfulness_2", 4)], "b"),
        ([("shown_first", "Answer 1"), ("sentiment", "Answer 2")], "b"),
        ([("preferred_order", "Answer 1")], "a"),
        ([("less_harmful", "Answer 1")], "a"),
        ([("harmlessness_1", 5), ("harmlessness_2", 1)], "a"),
        ([("better_in_length", "Answer 1")], "unreadable_answer"),
        ([("note", "Answer 1"), ("remark", "Answer 2")], "ambiguous_question"),
        ([("note", "Answer 1"), ("remark", "Answer 1")], "a"),
        ([("worse_answer", "Answer 1")], "unreadable_answer"),
        ([("toxicity_1", 5), ("toxicity_2", 1)], "unreadable_answer"),
    ],
)
def test_the_question_about_the_better_reply_is_the_one(questions: list[tuple[str, Any]], choice: str) -> None:
    (found,) = asked(*questions)
    if isinstance(found, Dropped):
        assert found.reason == choice
    elif isinstance(questions[0][1], int):
        assert won(found) == {"a": "Go.", "b": "Hello."}[choice]
    else:
        assert found.choice == choice


@pytest.mark.parametrize(
    ("questions", "found"),
    [
        ([("is_toxic", "Yes")], "unreadable_answer"),
        ([("is_toxic", "No"), ("quality", "Bad")], False),
        ([("difficulty", 5), ("quality", 1)], False),
        ([("verified", "Yes"), ("quality", "Bad")], False),
        ([("quality", "👍")], True),
        ([("quality", "Good"), ("helpful", "No")], "ambiguous_question"),
        ([("quality", 3)], "neutral"),
    ],
)
def test_a_single_reply_is_judged_by_what_was_asked_about_it(questions: list[tuple[str, Any]], found: Any) -> None:
    (record,) = asked(*questions, data=SINGLE)
    assert (record.reason if isinstance(record, Dropped) else record.desirable) == found


@pytest.mark.parametrize("stars", [0, 6, 9])
def test_stars_of_nobody_knows_how_many_are_refused(stars: int) -> None:
    with pytest.raises(RefusedError, match="range"):
        asked(("quality", stars), data=SINGLE)


def test_columns_of_the_task_are_no_answers() -> None:
    row = {**examples.LABEL_STUDIO_MIN, "shown_first": "answer1", "topic": "similar", "preference": "answer2"}
    row.pop("comparison")
    (record,) = convert("label_studio_min", row)
    assert won(record) == "Hello."


def test_what_nobody_answered_is_dropped_and_counted(tmp_path: Path) -> None:
    cancelled = copy.deepcopy(examples.LABEL_STUDIO)
    cancelled["annotations"][0]["was_cancelled"] = True
    both = copy.deepcopy(examples.LABEL_STUDIO)
    both["annotations"].append({**both["annotations"][0], "was_cancelled": True, "completed_by": 9})
    rows = [both, cancelled, {**examples.LABEL_STUDIO, "annotations": []}]
    tallies, folder = take(tmp_path, rows, rate=0.0)
    assert quarantine(folder) == [(2, "discarded"), (3, "unanswered")]
    assert (tallies["s0"].accepted, tallies["s0"].warnings) == (1, {"dropped_discarded": 1})
    tallies, folder = take(tmp_path / "argilla", [examples.ARGILLA_HUB], rate=0.0)
    assert tallies["s0"].warnings == {"dropped_discarded": 1}
    assert tallies["s0"].records["preferences"] == 1
    draft = {**examples.ARGILLA_HUB, "choice.responses.status": ["draft", "discarded"]}
    assert quarantine(take(tmp_path / "draft", [examples.ARGILLA_HUB, draft], rate=0.0)[1]) == [(2, "draft")]


def test_argilla_users_are_raters_and_ratings_of_two_replies_a_comparison() -> None:
    row = {**examples.ARGILLA_V1, "responses": copy.deepcopy(examples.ARGILLA_V1["responses"])}
    row["responses"][1] = {
        "user_id": "u-2",
        "values": {"rating_response-1": {"value": 4}, "rating_response-2": {"value": 2}},
        "status": "submitted",
    }
    first, second = convert("argilla", row)
    assert (first.rater, won(first)) == ("argilla:u-1", "Hello.")
    assert (second.rater, won(second)) == ("argilla:u-2", "Go.")
    single = {"id": "1", "fields": {"prompt": "Hi", "response": "Hello."}}
    single["responses"] = {"quality": [{"value": 5, "user_id": "u"}, {"value": "bad", "user_id": "v"}]}
    assert [record.desirable for record in convert("argilla", single)] == [True, False]


def test_rows_that_belong_together_make_their_pairs(tmp_path: Path) -> None:
    ratings = [
        examples.HELPSTEER,
        {**examples.HELPSTEER, "response": "Go.", "helpfulness": 1},
        {**examples.HELPSTEER, "response": "Hm.", "helpfulness": "1"},
        {**examples.HELPSTEER, "prompt": "Bye", "response": "So long."},
        {**examples.HELPSTEER, "prompt": "A<extra_id_1>Assistant\nB\n<extra_id_1>User\nC", "response": "x"},
        {**examples.HELPSTEER, "prompt": "A<extra_id_1>Assistant\nB\n<extra_id_1>User\nC", "response": "y"},
    ]
    tallies, folder = take(tmp_path, ratings)
    assert quarantine(folder) == [(3, "type"), (4, "single_reply")]
    assert (tallies["s0"].input, tallies["s0"].accepted, tallies["s0"].records["preferences"]) == (6, 4, 2)
    first, second = read_table(folder / "raw/preferences").to_pylist()
    assert (first["reply_a"] if first["choice"] == "a" else first["reply_b"]) == "Hello."
    assert [turn["content"] for turn in second["prompt"]] == ["A", "B", "C"]
    assert second["choice"] == "tie"


def test_open_assistant_trees_rank_the_replies_to_every_message(tmp_path: Path) -> None:
    def message(name: str, parent: str | None, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
        role = "prompter" if rank is None and name[0] == "u" else "assistant"
        return {
            **examples.OASST,
            "message_id": name,
            "parent_id": parent,
            "text": text,
            "role": role,
            "rank": rank,
            **more,
        }

    rows = [
        message("u1", None, "Hi"),
        message("a1", "u1", "Go.", 1),
        message("a2", "u1", "Hello.", 0),
        message("a3", "u1", "Spam", 2, deleted=True),
        message("u2", "a2", "And?"),
        message("a4", "u2", "More.", 0),
        message("a5", "u2", "Less.", 1),
        message("u9", None, "Alone", message_tree_id="u9"),
    ]
    tallies, folder = take(tmp_path, rows)
    assert (tallies["s0"].format, tallies["s0"].accepted, tallies["s0"].records["preferences"]) == (
        "oasst_messages",
        8,
        2,
    )
    found = read_table(folder / "raw/preferences").to_pylist()
    assert [row["reply_a"] if row["choice"] == "a" else row["reply_b"] for row in found] == ["Hello.", "More."]
    assert [turn["content"] for turn in found[1]["prompt"]] == ["Hi", "Hello.", "And?"]


def test_a_verdict_of_mt_bench_is_about_its_turn() -> None:
    later = [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long."}]
    row = {
        **examples.ARENA,
        **{f"conversation_{side}": examples.ARENA[f"conversation_{side}"] + later for side in "ab"},
    }
    (record,) = convert("arena", row | {"turn": 1})
    assert (record.prompt, record.reply_a, won(record)) == ([USER], "Go.", "Hello.")
    assert convert("arena", row | {"turn": 2}) == [Dropped("histories_differ")]


def test_arena_verdicts_on_other_histories_are_dropped(tmp_path: Path) -> None:
    longer = {**examples.ARENA, "turn": 2}
    for side, reply in (("a", GO), ("b", HELLO)):
        longer[f"conversation_{side}"] = [
            USER,
            reply,
            {"role": "user", "content": "Bye"},
            {**reply, "content": f"{side}."},
        ]
    tallies, folder = take(tmp_path, [examples.ARENA, longer], rate=0.0)
    assert quarantine(folder) == [(2, "histories_differ")]
    assert tallies["s0"].accepted == 1


def test_strengths_that_may_be_numbers_of_replies_are_asked_about() -> None:
    rows = [examples.HELPSTEER2_PREFERENCE | {"preference_strength": 1 + n % 2} for n in range(8)]
    with pytest.raises(BadFileError, match=r"strength` is 1 or 2 in all of 8 rows: .* Name the column `choice`"):
        detect(rows, "rows.jsonl")
    assert detect(rows[:7], "rows.jsonl").name == "helpsteer_preference"  # too few to tell
    rows[3] = rows[3] | {"preference_strength": -1}
    assert detect(rows, "rows.jsonl").name == "helpsteer_preference"


def test_each_chosen_of_a_list_beats_each_rejected_and_nothing_is_said_within_a_side() -> None:
    row = {**examples.REWARD_BENCH, "chosen": ["A", "B", "A"], "rejected": ["C", "D"]}
    *found, again = convert("pairs_of_lists", row)
    assert again == Dropped("repeated_reply")
    lost = [record.reply_b if record.choice == "a" else record.reply_a for record in found]
    assert [(won(record), other) for record, other in zip(found, lost, strict=True)] == [
        ("A", "C"),
        ("A", "D"),
        ("B", "C"),
        ("B", "D"),
    ]
    assert {record.weight for record in found} == {0.25}
    assert len({record.group for record in found}) == 1
    assert convert("pairs_of_lists", examples.REWARD_BENCH)[0].group is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": []}, "missing_field"),
        ({"rejected": ["Go.", ""]}, "empty_text"),
        ({"chosen": ["Go."]}, "identical_pair"),
        ({"chosen": [str(n) for n in range(64)]}, "range"),
    ],
)
def test_lists_that_are_no_pairs_are_refused(change: dict[str, Any], reason: str) -> None:
    row = {**examples.REWARD_BENCH, **change}
    assert detect([row], "f").name == "pairs_of_lists"
    with pytest.raises(RefusedError) as refused:
        convert("pairs_of_lists", row)
    assert refused.value.reason == reason


def test_a_reply_on_both_sides_says_nothing_and_the_others_stay() -> None:
    row = {**examples.REWARD_BENCH, "chosen": ["A", "B"], "rejected": ["B", "C"]}
    pairs = [pair for pair in convert("pairs_of_lists", row) if isinstance(pair, Preference)]
    assert {won(pair) for pair in pairs} == {"A"}
    assert sum(pair.weight for pair in pairs) == 1


@pytest.mark.parametrize("turn", [3, None, "said", ["if_chosen"]])
def test_a_turn_that_is_no_object_is_refused(turn: Any) -> None:
    spoken = [{"role": "user", "content": "Hi"}, turn, *examples.PRISM["conversation_history"]]
    row = examples.PRISM | {"conversation_history": spoken}
    assert detect([row], "f").name == "prism"
    with pytest.raises(RefusedError) as refused:
        convert("prism", row)
    assert refused.value.reason == "type"


def test_every_annotation_is_a_vote_of_its_own() -> None:
    said = ["A-is-clearly-better", "B-is-slightly-better", "Tie", None, "A-is-purple"]
    notes = [{"evaluator": f"w{n}", "overall_pref": word} for n, word in enumerate(said)]
    row = {**examples.MULTIPREF, "normal_worker_annotations": notes[:2], "expert_worker_annotations": notes[2:]}
    votes = convert("annotated", row)
    assert [vote.reason if isinstance(vote, Dropped) else (vote.rater, vote.choice) for vote in votes] == [
        ("w0", "a"),
        ("w1", "b"),
        ("w2", "tie"),
        "unanswered",
        "bad_label",
    ]
    assert {(vote.reply_a, vote.reply_b) for vote in votes[:3]} == {("Go.", "Hello.")}


def test_replies_that_nobody_has_looked_at_yet_are_unanswered() -> None:
    row = {**examples.MULTIPREF, "normal_worker_annotations": [], "expert_worker_annotations": None}
    assert convert("annotated", row) == [Dropped("unanswered")]


def test_a_verdict_over_all_annotations_is_the_vote() -> None:
    assert detect([examples.MULTIPREF | {"preference": "a"}], "f").name == "votes"


def test_a_dialogue_goes_on_from_the_chosen_reply_and_every_turn_is_ranked() -> None:
    def turn(role: str, said: str, chosen: bool | None = None, score: int | None = None) -> dict[str, Any]:
        return {"role": role, "content": said, "if_chosen": chosen, "score": score}

    history = [
        turn("user", "Hi"),
        turn("model", "Go.", False, 3),
        turn("model", "Hello.", True, 90),
        turn("model", "Hey.", False, 90),
        turn("model", "Yo.", False, 3),
        turn("user", "Who are you?"),
        turn("model", "A model.", True),
        turn("model", "Nobody.", False),
    ]
    found = convert("prism", examples.PRISM | {"conversation_history": history})
    assert [("tie" if record.choice == "tie" else won(record), len(record.prompt)) for record in found] == [
        ("Hello.", 1),
        ("Hey.", 1),
        ("tie", 1),  # Go and Yo
        ("Hello.", 1),
        ("Hello.", 1),
        ("Hey.", 1),
        ("A model.", 3),
    ]
    assert [turn["content"] for turn in found[-1].prompt] == ["Hi", "Hello.", "Who are you?"]
    assert {record.rater for record in found} == {"user7"}
    nobody = [dict(turn, if_chosen=False) for turn in history]
    assert len(convert("prism", examples.PRISM | {"conversation_history": nobody})) == 6  # of the first turn alone


def test_whoever_opts_out_is_known_as_an_evaluator() -> None:
    assert "ann" in set(people.everyone(examples.MULTIPREF))
