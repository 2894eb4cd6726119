"""A row dated in the future fares the same on every day."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.preferences import canonical, shards
from tasks.preferences.rules import Rules, RulesOptions
from tests.tasks.preferences.test_bad_inputs import VOTE, run
from tests.tasks.preferences.test_rules import refused, rules, vote

TOMORROW = "2026-11-25T12:00:00+00:00"  # but one
DAYS = [datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(days=days) for days in (0, 1, 30)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """clock(day): what every module that asks takes for now."""

    def at(day: datetime) -> None:
        class Day(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return day

        for module in (canonical, shards, ingest):
            monkeypatch.setattr(module, "datetime", Day)

    return at


def put(path: Path, *dates: str) -> Path:
    rows = [{**VOTE, "rater": f"r{n}", "created_at": date} for n, date in enumerate(dates)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_data_inputs_is_judged_the_same_on_every_day(
    data: Path, clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    put(data / "inputs/votes.jsonl", "2026-11-01T00:00:00Z", TOMORROW, "2999-01-01T00:00:00Z")
    found, warned = [], []
    for day in DAYS:
        clock(day)
        found.append(run(data, "votes.jsonl", rate=1.0))
        warned.append("rows are dated up to 2026-11-25" in capsys.readouterr().err)
    assert found[0]["quarantined"] == {"total": 1, "time": 1}
    assert found[0] == found[1] == found[2]
    assert warned == [True, True, False]


def test_a_moment_in_params_bounds_every_row() -> None:
    latest = rules(latest="2026-11-25T11:00:00Z")
    assert refused(vote(created_at=TOMORROW), latest) == "time"
    latest.judge(canonical.KINDS["preferences"].convert(vote(created_at="2026-11-25T12:00:00+01:00"), "s"), {}, {})  # type: ignore[arg-type]
    for bad in ("2026-11-25", "soon"):
        with pytest.raises(ValueError, match="latest"):
            RulesOptions.model_validate({"latest": bad})


@pytest.mark.parametrize("is_held", [False, True])
def test_a_fresh_file_is_judged_by_the_moment_it_was_first_taken(data: Path, clock: Any, is_held: bool) -> None:
    def judge(dataset: str, folder: Path) -> tuple[list[str], list[str], dict[str, Any]]:
        return (["shift_hold: all of it"] if is_held else []), [], {}

    def take(path: Path) -> Any:
        try:
            return shards.accept(path, data, 1.0, Rules.read(RulesOptions(), data), judge).sha256
        except shards.HeldError:
            return {folder.name for folder in shards.held(data)}

    fresh = put(data.parent / "fresh.jsonl", "2026-11-01T00:00:00Z", TOMORROW)
    found = []
    for day in DAYS:
        clock(day)
        found.append(take(fresh))
    assert found[0] == found[1] == found[2]
    if not is_held:
        ((path, entry),) = shards.accepted(data)
        assert (entry["rows"], entry["taken"]["at"]) == (1, DAYS[0].isoformat())
        assert "created_at" in path.read_text()
        other = put(data.parent / "other.jsonl", "2026-11-02T00:00:00Z", TOMORROW)  # first taken a month later
        assert take(other) != found[0]
        ((_, _), (_, entry)) = shards.accepted(data)
        assert (entry["rows"], "taken" in entry) == (2, False)
