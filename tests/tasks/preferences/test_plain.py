"""The fast path of the screen says what the screen says, or nothing."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.preferences import plain, screen
from tasks.preferences.screen import RefusedError

TROUBLE = [
    *"\x00 \x08 \x0b \x1b \x7f \u200b \u2028 \u202e \u2060 \u2066 \ufeff \U000e0041 \U0001f3f4 :".split(" "),
    *(rf"\u{code}" for code in "0000 0008 001b 007f 007F 003a 003A 200b 200B 202e 2060 2066 feff FEFF".split()),
    *(rf"\u{code}" for code in "d800 dc00 0041 00e9 2028".split()),
    *(
        r"\b",
        r"\f",
        r"\n",
        r"\"",
        r"\\",
        r"\/",
        r"\ud83d\ude00",
        r"\udb40\udc41",
        r"\\u0000",
        "é",
        "深",
        "🙂",
        "[",
        "{",
    ),
]
NUMBERS = """0 -0 -0.0 1 1.5 1e5 1E-999 1e999 -1e999 NaN Infinity 999999999999999999 1000000000000000000
    9999999999999999999 10000000000000000000 18446744073709551615 18446744073709551616 -9223372036854775809
    1e15 1000000000000000.0 01 1. .5""".split()

text = st.lists(st.sampled_from(TROUBLE) | st.text(max_size=5), max_size=6).map(lambda parts: f'"{"".join(parts)}"')
leaf = text | st.sampled_from([*NUMBERS, "true", "false", "null", "[]", "{}"])
space = st.sampled_from(["", "", " ", "\t", "\r\n", "\x0c"])


def objects(inner: Any) -> Any:
    pair = st.tuples(st.sampled_from(['"a"', '"b"', r'"\u0061"', '"a:"', '"prompt"']) | text, space, space, inner)
    return st.lists(pair.map(lambda p: f"{p[0]}{p[1]}:{p[2]}{p[3]}"), max_size=5).map(lambda p: "{" + ",".join(p) + "}")


value = st.recursive(
    leaf, lambda inner: objects(inner) | st.lists(inner, max_size=4).map(lambda v: f"[{','.join(v)}]"), max_leaves=12
)
line = st.tuples(objects(value), st.sampled_from(["", "\n", "\r\n", " {}", "x", "\ufeff"])).map("".join)


def verdict(raw: bytes, parse: Any) -> str:
    try:
        return repr(parse(raw))
    except RefusedError as refused:
        return refused.reason


@settings(max_examples=250, deadline=None)
@given(line.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'{"a":1,"a" :2}')
@example(b'{"a": "x:y", "a": "xy"}')
@example(rb'{"a": "\u003a", "b": 1, "b": 2}')
@example(b'{"a": [{"x": 1}, {"x": 1, "x": 2}]}')
@example(b'{"a": ' + b"[" * 31 + b"1" + b"]" * 31 + b"}")
@example(b'{"a": ' + b"[" * 32 + b"1" + b"]" * 32 + b"}")
def test_the_fast_path_and_the_slow_one_agree(raw: bytes) -> None:
    assert verdict(raw, screen.parse) == verdict(raw, screen.judge)


@settings(max_examples=120, deadline=None)
@given(
    st.binary(max_size=80)
    | line.map(str.encode).flatmap(
        lambda raw: st.integers(0, 255).map(
            lambda byte: raw[: byte % (len(raw) + 1)] + bytes([byte]) + raw[byte % (len(raw) + 1) :]
        )
    )
)
def test_they_agree_on_torn_bytes(raw: bytes) -> None:
    assert verdict(raw, screen.parse) == verdict(raw, screen.judge)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_ordinary_rows_take_the_fast_path(ascii_only: bool) -> None:
    row = {"prompt": "Why: “so” — déjà vu?\n", "reply_a": "深い 🙂 [1]", "scores": {"x": [1, 2.5, -3, 0.0]}, "n": None}
    raw = json.dumps(row, ensure_ascii=ascii_only).encode()
    assert plain.parse(raw) == row


def test_the_fast_path_is_fast() -> None:
    raw = json.dumps(
        {"prompt": "word " * 60, "reply_a": "word " * 60, "reply_b": "other " * 60, "choice": "a"}
    ).encode()

    def seconds(parse: Any) -> float:
        started = time.process_time()
        for _ in range(300):
            parse(raw)
        return time.process_time() - started

    assert min(seconds(plain.parse) for _ in range(3)) < min(seconds(screen.judge) for _ in range(3)) / 2
