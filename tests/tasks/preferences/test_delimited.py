"""CSV as pandas, Excel and labelling tools write it: no row swallowed, no cell mangled, no text taken for an object."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.preferences.containers import open_rows
from tasks.preferences.screen import BadFileError, Row

PAIRS = [{"prompt": f"Name river {n}.", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)]
MESSAGES = [{"role": "user", "content": 'Don\'t "go".'}, {"role": "assistant", "content": "a\nb"}]


def read(folder: Path, content: str | bytes, name: str = "rows.csv") -> tuple[list[Any], Counter[str]]:
    """Every row's value, or the reason why it is refused."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    warnings: Counter[str] = Counter()
    found = [row.value if isinstance(row, Row) else row.reason for row in open_rows(path, warnings)]
    return found, warnings


def table(*rows: dict[str, Any]) -> str:
    return str(pd.DataFrame(rows).to_csv(index=False))


def cell(folder: Path, name: str, text: str, **beside: Any) -> Any:
    """What is read of a cell, beside those that make up a record."""
    ((value,), _) = read(folder, table({"x": "x", **beside, name: text}))
    return value[name] if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("good 3,", '"good 3,', "record 4, line 5: a quoted cell never ends; close the quotation mark"),
        (",bad 3\n", ',"bad 3\n', "record 4, line 5: a quoted cell never ends"),
    ],
)
def test_a_stray_quotation_mark_refuses_the_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        read(tmp_path, table(*PAIRS).replace(old, new))


def test_rows_swallowed_between_two_marks_refuse_the_file(tmp_path: Path) -> None:
    swallowed = table(*PAIRS).replace("good 3,", '"good 3,').replace("bad 6\n", 'bad 6"\n')
    message = "wrong_format: record 4, line 5: a quoted cell runs over lines and leaves 2 cells of 3"
    with pytest.raises(BadFileError, match=message):
        read(tmp_path, swallowed)


def test_quotes_escaped_by_backslashes_are_never_read_as_something_else(tmp_path: Path) -> None:
    for text in (r'"q","he said \"hi\" ok","b"', r'"q","\"hi\", he said","b"', r'"q","b","say \"hi\""'):
        with pytest.raises(BadFileError, match=r'record 1, line 2: .*it has \\" where CSV has "".*JSON Lines'):
            read(tmp_path, f"prompt,chosen,rejected\n{text}\nx,y,z\n")
    found, _ = read(tmp_path, 'prompt,chosen,rejected\n"C:\\dir\\","say ""hi""",5" pipe\n')
    assert found == [{"prompt": "C:\\dir\\", "chosen": 'say "hi"', "rejected": '5" pipe'}]


def test_an_index_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame(PAIRS[:2])
    found, warnings = read(tmp_path, frame.to_csv())
    assert (found, warnings) == (PAIRS[:2], {"delimited": 1, "unnamed_column": 1})
    (tmp_path / "again.csv").write_text(frame.to_csv())
    found, warnings = read(tmp_path, pd.read_csv(tmp_path / "again.csv").to_csv())
    assert (found, warnings["unnamed_column"]) == (PAIRS[:2], 2)
    found, warnings = read(tmp_path, "prompt,chosen,rejected,,\nq,a,b,,\nq,c,d,,e\n")
    assert (found, warnings["unnamed_column"]) == ([{"prompt": "q", "chosen": "a", "rejected": "b"}, "cell_count"], 2)
    with pytest.raises(BadFileError, match="no header of a CSV file"):
        read(tmp_path, "prompt,,rejected\nq,a,b\n")


def test_blank_lines_and_records_of_empty_cells_are_counted(tmp_path: Path) -> None:
    content = "\r\n" + table(*PAIRS[:2]).replace("\n", "\r\n\r\n") + ",,\r\n , ,\r\n"
    assert read(tmp_path, content) == (PAIRS[:2], {"delimited": 1, "blank_line": 6})


def test_the_line_that_tells_excel_the_separator_is_none_of_the_table(tmp_path: Path) -> None:
    for first in ("sep=;\r\n", "\ufeffsep=;\n"):
        assert read(tmp_path, first + "prompt;completion\nHi, you;a,b,c\n")[0] == [
            {"prompt": "Hi, you", "completion": "a,b,c"}
        ]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (" prompt, chosen ,rejected", ["prompt", "chosen", "rejected"]),
        ("Prompt,Chosen,REJECTED", ["prompt", "chosen", "rejected"]),
        ("User Feedback,Preferred Response,My Column", ["user_feedback", "preferred_response", "My Column"]),
        ("history,human_ref_A,human_ref_B", ["history", "human_ref_A", "human_ref_B"]),
        ("Prompt,prompt,My Column", ["Prompt", "prompt", "My Column"]),
    ],
)
def test_names_are_known_in_other_letters(tmp_path: Path, header: str, names: list[str]) -> None:
    ((value,), _) = read(tmp_path, f"{header}\na,b,c\n")
    assert list(value) == names


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("is_safe", "True", True),
        ("is_response_0_safe", "FALSE", False),
        ("is_correct", "0", 0),
        ("liked", "true", True),
        ("thumbs_up", "1", 1),
        ("vote", "1", 1),
        ("vote", "thumbs_up", "thumbs_up"),
        ("verdict", "True", True),
        ("kto_tag", "False", False),
        ("chosen_score", "4.5", 4.5),
        ("rejected-rating", "3", 3),
        ("score_rejected", "-1e-05", -1e-05),
        ("helpful", "2", 2),
        ("preference", "1,5", 1.5),
        ("score_0", "0,125", 0.125),
        ("score_0", "1,500", "1,500"),  # one and a half, or fifteen hundred?
        ("chosen", "42", "42"),
        ("preferred", "42", "42"),
    ],
)
def test_numbers_and_truth_by_the_name_of_the_column(tmp_path: Path, name: str, text: str, value: Any) -> None:
    found = cell(tmp_path, name, text)
    assert (found, type(found)) == (value, type(value))


def test_semicolons_tell_that_commas_are_decimal(tmp_path: Path) -> None:
    assert read(tmp_path, "prompt;score_0\nq;1,500\n")[0] == [{"prompt": "q", "score_0": 1.5}]


@pytest.mark.parametrize("text", ['{"x": 1}', '["x", "y"]', '[{"id": 1}]', '[{"role": "admin"}]', "[1]", "{'a': 1}"])
def test_a_reply_that_is_json_stays_a_text(tmp_path: Path, text: str) -> None:
    assert cell(tmp_path, "chosen", text) == text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ranks", "[2, 1]", [2, 1]),
        ("order", "[1, [0, 2]]", [1, [0, 2]]),
        ("replies", "['it\\'s', \"a\"]", None),  # pandas writes it otherwise
        ("replies", """["it's", 'a']""", ["it's", "a"]),
        ("labels", "[True, None]", [True, None]),
        ("replies", "['a' 'b']", None),  # numpy: Python reads one text
        ("history", "[Serious] What?", "[Serious] What?"),
        ("quality.responses.users", '["u"]', ["u"]),
    ],
)
def test_columns_of_lists_are_read_as_such(tmp_path: Path, name: str, text: str, value: Any) -> None:
    assert cell(tmp_path, name, text) == (text if value is None else value)


def test_lists_of_turns_are_read_where_the_arena_writes_them(tmp_path: Path) -> None:
    assert cell(tmp_path, "prompt", '["a", "b"]', winner_model_a=1) == ["a", "b"]
    assert cell(tmp_path, "prompt", '["a", "b"]') == '["a", "b"]'


def test_an_answer_of_label_studio_is_read_in_a_column_of_any_name(tmp_path: Path) -> None:
    beside = {"annotation_id": 1, "lead_time": 2.5}
    assert cell(tmp_path, "which", '{"selected": "left"}', **beside) == {"selected": "left"}
    assert cell(tmp_path, "which", '{"selected": "left"}') == '{"selected": "left"}'


def test_messages_as_python_writes_them_are_messages(tmp_path: Path) -> None:
    assert read(tmp_path, table({"prompt": MESSAGES, "x": 1}))[0] == [{"prompt": MESSAGES, "x": "1"}]
    numpy = "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]"
    assert cell(tmp_path, "prompt", numpy) == "type"
    assert cell(tmp_path, "prompt", "[{'role': 'user', 'content': array(['q'])}]") == "type"


def test_a_line_of_a_cell_that_begins_as_json_does_makes_no_json(tmp_path: Path) -> None:
    row = {"prompt": "Write C.", "completion": "int main()\n{\n}\n[1]"}
    assert read(tmp_path, table(row))[0] == [row]


def test_what_no_row_may_hold_is_refused_in_a_cell(tmp_path: Path) -> None:
    assert cell(tmp_path, "ranks", "[NaN]") == "non_finite"
    assert cell(tmp_path, "ranks", "[" * 40 + "]" * 40) == "too_deep"
    assert cell(tmp_path, "info", '{"a": 1, "a": 2}') == "duplicate_key"
