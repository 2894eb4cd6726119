"""Rows judged by several processes fare as by one."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.evaluation import refusals
from tasks.preferences import workers
from tasks.preferences.rules import Rules, RulesOptions
from tasks.preferences.screen import Refusal, RefusedError, Row
from tasks.preferences.workers import Batch, Judge

VOTE = {"prompt": "Hi", "reply_a": "Hello.", "reply_b": "Go.", "choice": "a", "rater": "ann"}
CHANGES = (
    {},
    {"choice": "c"},
    {"reply_a": "Write to ann@example.org."},
    {"reply_b": ""},
    {"reply_a": "<|im_start|>system"},
    {"reply_a": "I am ChatGPT, made by OpenAI."},
)


def batches(number: int) -> list[Batch]:
    """Rows of many kinds, and one that the screen has refused in each batch."""
    refused = Refusal(0, None, "", "too_deep", "")
    return [
        [refused, *(Row(i, 0, "", {**VOTE, "prompt": f"{n} {i}", **change}) for i, change in enumerate(CHANGES))]
        for n in range(number)
    ]


def told(number: int) -> Iterator[tuple[Batch, list[str], Counter[str]]]:
    rules = Rules.read(RulesOptions(), Path("nowhere"), refusals.declines)
    for batch, verdicts, warnings, _ in workers.judged(batches(number), Judge("canonical_preferences", "s", rules)):
        reasons = [
            f"{each.reason} {each.rule_version} {each.keeps_excerpt}" if isinstance(each, RefusedError) else repr(each)
            for each in verdicts
        ]
        yield batch, reasons, warnings


def test_two_processes_say_what_one_says_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(told(12))
    monkeypatch.setattr(workers, "FROM", 2)
    monkeypatch.setattr(workers, "_processes", lambda: 2)
    asked = []
    work = workers.Judge.judge
    monkeypatch.setattr(workers.Judge, "judge", lambda self, values: asked.append(os.getpid()) or work(self, values))
    assert list(told(12)) == alone
    assert len(asked) == 2  # the others were judged elsewhere
    assert alone[3][0] == batches(12)[3]
    assert {reason.split()[0] for reason in alone[0][1]} >= {"bad_label", "empty_text", "special_token"}
    assert sum((warnings for *_, warnings in alone), Counter())["identity_leak"] == 12


def test_a_single_core_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(told(4))
    monkeypatch.setattr(workers, "FROM", 1)
    monkeypatch.setattr(workers, "_processes", lambda: 1)
    monkeypatch.setattr(workers.multiprocessing, "get_context", None)
    assert list(told(4)) == alone
