"""Rows as published datasets and labelling tools have them, extra columns and all."""

from typing import Any

USER = {"role": "user", "content": "Hi"}
HELLO, GO = ({"role": "assistant", "content": text} for text in ("Hello.", "Go."))
RANKINGS: dict[str, Any] = {"prompt": "Hi", "replies": ["Hm.", "Hello.", "Go."], "ranks": [2, 1, 2], "rater": "ann"}
NECTAR = {
    "prompt": "\n\nHuman: Hi\n\nAssistant: ",
    "answers": [
        {"answer": "Go.", "model": "gpt-3.5-turbo", "rank": 2.0},
        {"answer": "Hello.", "model": "gpt-4", "rank": 1.0},
    ],
    "turns": 1,
    "num_responses": 2,
    "source": ["lmsys-chat-1m"],
    "good_natured": True,
}
PKU = {
    "prompt": "Hi",
    "response_0": "Go.",
    "response_1": "Hello.",
    "prompt_source": "x",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 2,
    "better_response_id": 1,
    "safer_response_id": 1,
    "response_0_sha256": "ab",
}
SHP = {
    "post_id": "qt3nxl",
    "domain": "askculinary_train",
    "upvote_ratio": 0.98,
    "history": "Hi",
    "c_root_id_A": "hkh25sc",
    "created_at_utc_A": 1636822112,
    "score_A": 340,
    "score_B": 85,
    "human_ref_A": "Hello.",
    "human_ref_B": "Go.",
    "labels": 1,
    "seconds_difference": 0.0,
    "score_ratio": 4.0,
}
SUMMARIES = {
    "info": {
        "id": "t3_x",
        "post": "I met somebody.",
        "title": "Hi",
        "subreddit": "advice",
        "site": None,
        "article": None,
    },
    "summaries": [
        {"text": " Go.", "policy": "sup4", "note": None},
        {"text": " Hello.", "policy": "ref", "note": None},
    ],
    "choice": 1,
    "worker": "ikNmucwunMnYJCQpnq6ZYb57OW7NiD",
    "batch": "batch0_cnndm",
    "split": "valid2",
    "extra": {"confidence": 8},
}
WEBGPT = {
    "question": {"dataset": "eli5", "id": "x", "full_text": "Hi"},
    "quotes_0": {"title": [], "extract": []},
    "answer_0": "Go.",
    "tokens_0": {"prefix": [1, 2], "completion": [3]},
    "score_0": -0.5,
    "quotes_1": {"title": [], "extract": []},
    "answer_1": "Hello.",
    "tokens_1": {"prefix": [1, 2], "completion": [3]},
    "score_1": 0.5,
}
ARENA = {
    "question_id": "58210e39b3fd4441a2bd4a518bb44c2d",
    "model_a": "chatglm-6b",
    "model_b": "koala-13b",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [USER, GO],
    "conversation_b": [USER, HELLO],
    "turn": 1,
    "anony": True,
    "language": "English",
    "tstamp": 1682351591.1322,
    "openai_moderation": {"flagged": False},
}
WINNERS = {
    "id": 30192,
    "model_a": "gpt-4",
    "model_b": "koala",
    "prompt": '["Hi"]',
    "response_a": '["Hello."]',
    "response_b": '["Go."]',
    "winner_model_a": 1,
    "winner_model_b": 0,
    "winner_tie": 0,
}
HELPSTEER2_PREFERENCE = {
    "split": "train",
    "prompt": "Hi",
    "response_1": "Go.",
    "response_2": "Hello.",
    "preference_strength": 2,
    "preference_statement": "@Response 2 is better.",
    "preference_elaboration": "It greets.",
    "three_most_similar_preferences": [],
    "all_preferences_unprocessed": [],
}
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": [USER],
    "response1": "Hello.",
    "response2": "Go.",
    "overall_preference": -3,
    "individual_preference": [{"score": -3, "reasoning": "x", "feedback1": "y", "feedback2": "z"}],
}
HELPSTEER = {
    "prompt": "Hi",
    "response": "Hello.",
    "helpfulness": 4,
    "correctness": 4,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 1,
}
OASST = {
    "message_id": "m1",
    "parent_id": None,
    "user_id": "u",
    "created_date": "2023-02-05T14:23:50.983374+00:00",
    "text": "Hi",
    "role": "prompter",
    "lang": "en",
    "review_count": 3,
    "review_result": True,
    "deleted": False,
    "rank": None,
    "message_tree_id": "m1",
    "tree_state": "ready_for_export",
}
TREE = {
    "message_tree_id": "m1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "m1",
        "text": "Hi",
        "role": "prompter",
        "replies": [
            {"message_id": "m2", "text": "Go.", "role": "assistant", "rank": 1, "replies": []},
            {"message_id": "m3", "text": "Hello.", "role": "assistant", "rank": 0, "replies": []},
        ],
    },
}
SHAREGPT = {"id": "x_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
ALPACA_DEMO = {"instruction": "Hi", "input": "", "output": "Hello.", "text": "Below is an instruction ..."}
LABEL_STUDIO = {
    "id": 7,
    "data": {"prompt": "Hi", "answer1": "Go.", "answer2": "Hello."},
    "annotations": [
        {
            "id": 1001,
            "completed_by": {"id": 3, "email": "ann@example.org", "first_name": "", "last_name": ""},
            "result": [
                {
                    "id": "Dx_aB91ISN",
                    "type": "pairwise",
                    "value": {"selected": "right"},
                    "origin": "manual",
                    "to_name": "answer1,answer2",
                    "from_name": "comparison",
                }
            ],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2024-03-09T22:16:08.728353Z",
            "updated_at": "2024-03-09T22:16:08.728378Z",
            "lead_time": 4.288,
            "result_count": 0,
            "task": 7,
        }
    ],
    "drafts": [],
    "predictions": [],
    "meta": {},
    "created_at": "2024-03-09T21:52:49.513742Z",
    "updated_at": "2024-03-09T22:16:08.746926Z",
    "project": 83,
    "file_upload": "x.json",
}
LABEL_STUDIO_MIN = {
    "prompt": "Hi",
    "answer1": "Go.",
    "answer2": "Hello.",
    "id": 7,
    "comparison": [{"selected": "right"}],
    "annotator": 3,
    "annotation_id": 1001,
    "created_at": "2024-03-09T22:16:08.728353Z",
    "updated_at": "2024-03-09T22:16:08.728378Z",
    "lead_time": 4.288,
}
FIELDS = {"prompt": "Hi", "response-1": "Go.", "response-2": "Hello."}
RANKED = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
ARGILLA = {
    "id": "r1",
    "fields": FIELDS,
    "metadata": {},
    "suggestions": {"preference": {"value": ["response-1", "response-2"], "score": None, "agent": "gpt-4"}},
    "responses": {"preference": [{"value": ["response-2", "response-1"], "user_id": "u-1"}]},
    "vectors": {},
    "_server_id": "s1",
}
ARGILLA_V1 = {
    "fields": FIELDS,
    "metadata": {},
    "responses": [
        {"user_id": "u-1", "values": {"preference": {"value": RANKED}}, "status": "submitted"},
        {"user_id": "u-2", "values": {}, "status": "discarded"},
    ],
    "suggestions": [],
    "external_id": None,
}
ARGILLA_HUB = {
    "id": "r1",
    "status": "completed",
    "_server_id": "s1",
    **FIELDS,
    "choice.responses": ["Response 2", "response-1"],
    "choice.responses.users": ["u-1", "u-2"],
    "choice.responses.status": ["submitted", "discarded"],
    "choice.suggestion": "response-1",
    "choice.suggestion.score": 0.7,
    "choice.suggestion.agent": "gpt-4",
}
ARGILLA_HUB_V1 = {
    **FIELDS,
    "preference": [{"user_id": "u-1", "value": "response-2", "status": "submitted"}],
    "preference-suggestion": "response-1",
    "preference-suggestion-metadata": {"type": None, "score": None, "agent": None},
    "external_id": "7",
    "metadata": "{}",
}
VOTES = {
    "question": "Hi",
    "answer_a": "Go.",
    "answer_b": "Hello.",
    "winner": "answer_b",
    "annotator": 3,
    "note": "it greets",
}
HH = {"chosen": "Hello.", "rejected": "Go."}
# What datasets of the hub and others' tools make of a pair: all say that "Hello." is better.
PAIRS: dict[str, dict[str, Any]] = {
    "orca": {"system": " ", "input": "Hi", "chosen": "Hello.", "rejected": "Go.", "generations": ["x"], "order": ["x"]},
    "stack exchange": {"qid": 1, "question": "Hi", "response_j": "Hello.", "response_k": "Go."},
    "rm static": {
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "response": " Hello.",
        "chosen": " Hello.",
        "rejected": " Go.",
    },
    "openai": {
        "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [HELLO],
        "non_preferred_output": [GO],
    },
    "worse": {"prompt": "Hi", "better": "Hello.", "worse": "Go."},
    "query": {"query": "Hi", "chosen": "Hello.", "rejected": "Go."},
    "ultra interact": {"task": "Math", "trajectory": [{"from": "user", "value": "Hi"}], **HH, "parent_id": "p"},
    "messages before": {"messages": [USER], "chosen": "Hello.", "rejected": "Go."},
    "papers": {"prompt": "Hi", "y_w": "Hello.", "y_l": "Go."},
    "texts": {"prompt": "Hi", "chosen_text": "Hello.", "rejected_text": "Go."},
    "transcripts": {"prompt": "Hi", **{k: f"\n\nHuman: Hi\n\nAssistant: {t}" for k, t in HH.items()}},
    "windows": {k: f"Human: Hi\r\n\r\nAssistant: {t}" for k, t in HH.items()},
    "no system": {
        k: [{"role": "system", "content": ""}, USER, {"role": "assistant", "content": t}] for k, t in HH.items()
    },
    "capitals": {k: [{"role": "User", "content": "Hi"}, {"role": "AI", "content": t}] for k, t in HH.items()},
    "chosen column": {"prompt": "Hi", "response_a": "Go.", "response_b": "Hello.", "chosen": "B", "rejected": "A"},
    "preferred column": {"prompt": "Hi", "response_a": "Go.", "response_b": "Hello.", "preferred": "response_b"},
    "models": {
        "prompt": "Hi",
        "model_a": "m-1",
        "model_b": "m-2",
        "response_a": "Go.",
        "response_b": "Hello.",
        "winner": "m-2",
    },
    "sheet": {
        "prompt": "Hi",
        "Model A": "m-1",
        "Model B": "m-2",
        "Response A": "Go.",
        "Response B": "Hello.",
        "winner": "m-2",
    },
    "axolotl": {"messages": [USER], "chosen": HELLO, "rejected": GO},
    "zephyr": {"prompt": "Hi", "chosen": [USER, HELLO], "rejected": [USER, GO], "messages": [USER, HELLO]},
}
LIKED: dict[str, tuple[dict[str, Any], bool]] = {
    "beavertails": ({"prompt": "Hi", "response": "Go.", "category": {"animal_abuse": False}, "is_safe": False}, False),
    "thumb": ({"prompt": "Hi", "response": "Go.", "feedback": "thumbs_down"}, False),
    "product": ({"prompt": "Hi", "response": "Go.", "user_feedback": "thumbs_down", "feedback": "It is rude."}, False),
    "rating": ({"prompt": "Hi", "response": "Hello.", "rating": "good"}, True),
    "aegis": ({"prompt": "Hi", "response": "Go.", "prompt_label": "safe", "response_label": "unsafe"}, False),
    "sign": ({"prompt": "Hi", "response": "Hello.", "vote": "👍"}, True),
    "number": ({"prompt": [USER], "completion": [HELLO], "label": 1}, True),
    "decimal": ({"prompt": "Hi", "completion": "Hello.", "label": 1.0}, True),
    "minus": ({"prompt": "Hi", "completion": "Go.", "label": -1}, False),
    "word": ({"prompt": "Hi", "completion": "Go.", "label": "False"}, False),
    "chat": ({"messages": [USER, GO], "label": False}, False),
    "kto tag": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Go."}], "kto_tag": False},
        False,
    ),
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Go.", "label": False}, False),
    "answer": ({"question": "Hi", "answer": "Go.", "is_correct": False}, False),
    "dialogue": ({"prompt": [USER], "completion": [USER, HELLO], "label": True}, True),
    "whole": ({"completion": [USER, HELLO], "label": True}, True),
}

REWARD_BENCH = {
    "id": "12",
    "prompt": "Hi",
    "chosen": ["Hello."],
    "rejected": ["Go."],
    "num_correct": 1,
    "num_incorrect": 1,
    "total_completions": 2,
    "models": ["m1", "m2"],
    "subset": "Factuality",
    "additional_metadata": {"category": None},
}
MULTIPREF = {
    "comparison_id": "c1",
    "prompt_id": "p1",
    "text": "Hi",
    "source": "wildchat",
    "category": "Brainstorm",
    "completion_a": "Go.",
    "completion_b": "Hello.",
    "model_a": "tulu-2-7b",
    "model_b": "gpt-4",
    "normal_worker_annotations": [
        {
            "evaluator": "ann",
            "helpful_pref": "A-is-slightly-better",
            "helpful_reasons": ["follows instructions"],
            "overall_pref": "B-is-clearly-better",
            "overall_confidence": "fairly-confident",
            "time_spent": 41,
            "timestamp": "2024-05-11T10:00:00Z",
        }
    ],
    "expert_worker_annotations": [{"evaluator": "bob", "helpful_pref": "Tie", "overall_pref": None}],
}
PRISM = {
    "conversation_id": "c0",
    "user_id": "user7",
    "conversation_type": "unguided",
    "opening_prompt": "Hi",
    "conversation_turns": 1,
    "conversation_history": [
        {"content": "Hi", "if_chosen": None, "role": "user", "score": None, "turn": 0, "within_turn_id": 0},
        {"content": "Go.", "if_chosen": False, "role": "model", "score": 20, "turn": 0, "within_turn_id": 0},
        {"content": "Hello.", "if_chosen": True, "role": "model", "score": 80, "turn": 0, "within_turn_id": 1},
    ],
    "performance_attributes": {"values": 51},
    "open_feedback": "Fine.",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "canonical_feedback": {"prompt": "Hi", "reply": "Hello.", "desirable": True, "signal": "upvote"},
    "sharegpt_pairs": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello."},
        "rejected": {"from": "gpt", "value": "Go."},
    },
    "pairs_of_lists": REWARD_BENCH,
    "rankings": RANKINGS,
    "prism": PRISM,
    "nectar": NECTAR,
    "oasst_messages": OASST,
    "oasst_tree": TREE,
    "pku_safe_rlhf": PKU,
    "shp": SHP,
    "summarize_from_feedback": SUMMARIES,
    "webgpt": WEBGPT,
    "arena": ARENA,
    "arena_winners": WINNERS,
    "helpsteer_preference": HELPSTEER2_PREFERENCE,
    "helpsteer": HELPSTEER,
    "votes": VOTES,
    "annotated": MULTIPREF,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA_DEMO,
    "prompt_completion": {"prompt": "Hi", "completion": "Hello."},
    "label_studio": LABEL_STUDIO,
    "label_studio_min": LABEL_STUDIO_MIN,
    "argilla": ARGILLA,
    "argilla_hub": ARGILLA_HUB,
}
