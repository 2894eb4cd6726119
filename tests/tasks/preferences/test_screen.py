"""Bytes to rows: every hostile line gets its reason code, and nothing is lost."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tasks.preferences import screen
from tasks.preferences.screen import BadFileError, Refusal, RefusedError, Row

GOOD = b'{"prompt": "p", "chosen": "good", "rejected": "bad"}'


def rows(path: Path, content: bytes) -> tuple[list[Row | Refusal], Counter[str]]:
    path.write_bytes(content)
    warnings: Counter[str] = Counter()
    return list(screen.json_rows(path, warnings)), warnings


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "caf\xe9"}', "bad_encoding"),
        (b'{"a": 1} {"a": 2}', "multiple_values"),
        (b"[1, 2]", "not_object"),
        (b'"text"', "not_object"),
        (b"12", "not_object"),
        (b"null", "not_object"),
        (b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "too_deep"),
        (b'{"a": ' * 33 + b"1" + b"}" * 33, "too_deep"),
        (b'{"a": NaN}', "non_finite"),
        (b'{"a": [-Infinity]}', "non_finite"),
        (b'{"a": 1e999}', "non_finite"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"x": {"a": 1, "\\u0061": 2}}', "duplicate_key"),
        (b'{"a": ' + b"7" * 5000 + b"}", "number_range"),
        (b'{"a": "\\ud800"}', "bad_unicode"),
        (b'{"\\udc00": 1}', "bad_unicode"),
        (b'{"a": "\x00"}', "control_char"),
        (b'{"a": "\\u0000"}', "control_char"),
        (b'{"a": "\\u001b[31m"}', "control_char"),
        ('{"a": "abc\u202edef"}'.encode(), "hidden_text"),
        (b'{"a": "x\\u200by"}', "hidden_text"),
        ('{"a": "hi\U000e0041\U000e0042"}'.encode(), "hidden_text"),
        (b'{"a": "never closed}', "malformed_json"),
        (b"{'a': 1}", "malformed_json"),
    ],
)
def test_a_bad_line_is_refused_and_its_neighbours_are_not(tmp_path: Path, line: bytes, reason: str) -> None:
    found, _ = rows(tmp_path / "f", GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert [type(row).__name__ for row in found] == ["Row", "Refusal", "Row"]
    refusal = found[1]
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.line, refusal.byte_offset) == (reason, 2, len(GOOD) + 1)
    assert len(refusal.sha256) == 64


@pytest.mark.parametrize(
    "text",
    [
        "line\u2028separator \u2029 and \x85",
        "vertical\x0btab and form\x0cfeed and \ttab",
        "a family \U0001f468\u200d\U0001f469 and Scotland \U0001f3f4\U000e0067\U000e0062\U000e007f",
        "深い 🙂 עברית",
        "brackets " + "[{" * 500,
    ],
)
def test_unusual_text_is_accepted_whole(tmp_path: Path, text: str) -> None:
    for ascii_only in (True, False):
        line = json.dumps({"prompt": text}, ensure_ascii=ascii_only)
        # A raw VT or FF inside a string is text too, though JSON asks for an escape.
        line = line.replace("\\u000b", "\x0b").replace("\\f", "\x0c")
        (row,), _ = rows(tmp_path / "f", line.encode() + b"\n")
        assert isinstance(row, Row)
        assert row.value == {"prompt": text}


def test_depth_of_32_is_accepted(tmp_path: Path) -> None:
    (row,), _ = rows(tmp_path / "f", b'{"a": ' * 32 + b"1" + b"}" * 32)
    assert isinstance(row, Row)


def test_a_line_cut_at_the_end_is_called_truncated(tmp_path: Path) -> None:
    found, _ = rows(tmp_path / "f", GOOD + b"\n" + GOOD[:30])
    assert isinstance(found[1], Refusal)
    assert found[1].reason == "truncated_line"


def test_bom_crlf_and_blank_lines_are_mended_and_counted(tmp_path: Path) -> None:
    found, warnings = rows(tmp_path / "f", b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n" + GOOD)
    assert [row.line for row in found if isinstance(row, Row)] == [1, 2]
    assert warnings == {"bom_stripped": 1, "crlf": 2, "blank_line": 2}


def test_a_huge_row_is_streamed_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "MAX_ROW_BYTES", 100)
    found, _ = rows(tmp_path / "f", GOOD + b'\n{"a": "' + b"x" * 1_000_000 + b'"}\n' + GOOD + b"\n")
    assert [getattr(row, "reason", "ok") for row in found] == ["ok", "row_too_large", "ok"]
    assert found[2].byte_offset == len(GOOD) + 1 + 1_000_010


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"\n \n\r\n", "empty_file"),
        ('{"a": 1}\n'.encode("utf-16"), "wrong_encoding"),
        ('{"a": 1}\n'.encode("utf-16-le"), "wrong_encoding"),
        (b"prompt,chosen,rejected\na,b,c\n", "wrong_format"),
        (b"\x80\x04\x95\x0c{", "wrong_format"),
        (b"PK\x03\x04 anything", "archive_unsafe"),
        (b"rows.jsonl".ljust(257, b"\0") + b"ustar", "archive_unsafe"),
        (gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0), "archive_unsafe"),
        (gzip.compress(b" " * 40_000_000, mtime=0), "archive_unsafe"),
        (gzip.compress(GOOD * 1000, mtime=0)[:-20], "archive_corrupt"),
        (b'[{"a": 1}] [{"a": 2}]', "wrong_format"),
    ],
)
def test_a_file_that_cannot_be_rows_is_refused_whole(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(BadFileError) as caught:
        rows(tmp_path / "f.jsonl", content)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{tmp_path}/f.jsonl: {reason}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(screen.json_rows(tmp_path / "none", Counter()))
    with pytest.raises(FileNotFoundError, match="is a folder"):
        list(screen.json_rows(tmp_path, Counter()))


def test_gzip_gives_the_same_rows(tmp_path: Path) -> None:
    content = b"\n".join([GOOD, b"{", GOOD])
    plain, _ = rows(tmp_path / "plain", content)
    packed, _ = rows(tmp_path / "packed", gzip.compress(content))
    assert plain == packed


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_gives_its_elements(tmp_path: Path, indent: int | None) -> None:
    values = [{"a": 'b"],{[', "c": [{"d": "\\"}, 3]}, {"a": "x" * 200_000}, {"a": "é"}]
    found, _ = rows(tmp_path / "f", json.dumps(values, indent=indent, ensure_ascii=False).encode())
    assert [row.value for row in found if isinstance(row, Row)] == values


def test_a_cut_or_odd_json_array_loses_no_element(tmp_path: Path) -> None:
    found, _ = rows(tmp_path / "f", b'[{"a": 1}, 5, {"a": NaN}, {"a": 2}, {"a": ')
    assert [getattr(row, "reason", "ok") for row in found] == [
        "ok",
        "not_object",
        "non_finite",
        "ok",
        "truncated_line",
    ]


def test_an_excerpt_shows_the_shape_and_not_the_words() -> None:
    line = '{"prompt": "Call Ann at +44 20 7946 0958, ann@example.org", "chosen": "Žofie"}'
    excerpt = screen.redact(line.encode())
    assert excerpt.startswith('{"prompt": "xxxx xxx xx +00 00 0000 0000, xxx@xxxxxxx.xxx", "chosen": ')
    assert not re.search(r"[A-Z1-9]|ann", excerpt)


def test_check_text_reaches_into_every_corner() -> None:
    screen.check_text({"a": [{"b": ["fine", 1, None, 2.5, True]}]})
    for bad, reason in (("\ud800", "bad_unicode"), ("\x01", "control_char"), (float("nan"), "non_finite")):
        with pytest.raises(RefusedError, match=reason):
            screen.check_text({"a": [{"b": ["fine", bad]}]})
