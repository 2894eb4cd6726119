"""What tools did, summed up from the traces of align."""

import json

import pytest

from flows import traces


def test_traces_are_summed_up_by_tool(tmp_path):
    said = [
        {"fold": "train", "calls": [{"tool": "a", "ok": True}, {"tool": "a", "ok": False}], "score": 1.0},
        {"fold": "train", "calls": [{"tool": "a", "ok": True}, {"tool": "b", "ok": False}], "score": None},
        {"fold": "dev", "calls": [{"tool": "b", "ok": True}], "score": 9.0},
    ]
    path = tmp_path / traces.TRACES
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in said))
    found = traces.summary(tmp_path)
    assert found == {
        "a": {"calls": 3, "ok": pytest.approx(2 / 3), "replies": 2, "score": 1.0},
        "b": {"calls": 1, "ok": 0, "replies": 1},
    }
    path.unlink()
    with pytest.raises(ValueError, match=r"traces.jsonl: no reply called a tool; name some in align.tools"):
        traces.summary(tmp_path)
