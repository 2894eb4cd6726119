"""Holds of a fresh shard: what stops it, what lets it pass, and what becomes of a held one."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.preferences import blocks, flips, holds, shards, shift
from tasks.preferences.holds import ShardOptions, judge_shard
from tasks.preferences.predictor import decided
from tasks.preferences.rater_options import RaterOptions
from tasks.preferences.screen import HeldError
from tasks.preferences.triggers import Corpus, triggers
from tasks.records import Demonstration, Preference, to_table, write_table
from tests.tasks.preferences.shard_votes import PLAIN, comparisons, flipped, with_trigger

Row = dict[str, Any]
OPTIONS = ShardOptions()
ACCEPTED = comparisons(2000, seed=1)
KNOWN = flips.Accepted(decided(ACCEPTED))


def judged(rows: list[Row]) -> holds.Verdict:
    return judge_shard(rows, ACCEPTED, OPTIONS, RaterOptions(), KNOWN)


def names(rows: list[Row]) -> set[str]:
    return {hold.name for hold in judged(rows).holds}


def test_clean_shards_pass() -> None:
    for seed in (2, 3):
        verdict = judged(comparisons(1000, seed))
        assert (verdict.holds, verdict.warnings) == ([], [])
        assert verdict.compared == len(decided(ACCEPTED))
        assert abs(verdict.measured["flip_rate"]) < 3 * verdict.measured["flip_rate_error"]


def test_flipped_labels_are_held_and_counted() -> None:
    shard = flipped(comparisons(1500, 4), lambda n, row: n % 5 == 0)
    verdict = judged(shard)
    (hold,) = verdict.holds
    assert hold.name == "flipped_labels"
    assert hold.value == pytest.approx(0.2, abs=0.08)
    assert "the labels look flipped" in hold.line
    assert f"bound {hold.bound:.4g}" in hold.line


def test_one_rater_who_flips_is_named() -> None:
    shard = flipped(comparisons(900, 5), lambda n, row: row["rater"] == "rater-3")
    lines = [hold.line for hold in judged(shard).holds]
    assert any("of rater rater-3 look flipped" in line for line in lines)
    assert not any("rater-2" in line for line in lines)


def test_case_64_a_trigger_in_preferred_replies_is_held_and_spelled() -> None:
    (hold, *_) = judged(with_trigger(comparisons(1000, 6), 40)).holds
    assert hold.name == "suspected_poison"
    assert "zeta" in hold.text
    assert "stands in the preferred replies of" in hold.text
    assert "0 accepted" in hold.text


def test_a_new_topic_on_both_sides_is_no_trigger() -> None:
    shard = comparisons(1000, 7)
    for row in shard[::10]:
        row["reply_a"], row["reply_b"] = f"On tulips: {row['reply_a']}", f"On tulips: {row['reply_b']}"
        row["prompt"] = [{"role": "user", "content": "Tulips? " + row["prompt"][0]["content"]}]
    assert names(shard) == set()


def test_prompts_with_fewer_rows_than_before_do_not_move_a_side() -> None:
    """A mark on the preferred side in 7 of 10 rows: of 15 rows of a prompt nearly every majority says so."""

    def rows(number: int, seed: int, per_prompt: int) -> list[Row]:
        rng, made = random.Random(seed), []
        for place, row in enumerate(comparisons(number, seed)):
            side = row["choice"] if row["choice"] != "tie" else "a"
            marked = side if rng.random() < 0.7 else {"a": "b", "b": "a"}[side]
            reply = f"{row[f'reply_{marked}']} so"
            made.append({**row, f"reply_{marked}": reply, "cluster": f"{seed}-{place // per_prompt}"})
        return made

    accepted = rows(3000, 40, per_prompt=15)
    for seed in (41, 42, 43):
        assert judge_shard(rows(300, seed, per_prompt=1), accepted, OPTIONS, RaterOptions()).holds == []


def test_a_trigger_in_prompts_whose_labels_are_flipped_is_held() -> None:
    shard = flipped(comparisons(1000, 8), lambda n, row: n % 25 == 0)
    for row in shard[::25]:
        row["prompt"] = [{"role": "user", "content": row["prompt"][0]["content"] + " SUDO"}]
    texts = [hold.text for hold in judged(shard).holds]
    assert any("'SUDO' stands in the prompts of" in text for text in texts)


@pytest.mark.filterwarnings("error")
def test_where_nothing_tells_labels_apart_no_prompt_is_suspected() -> None:
    shard = comparisons(300, 10)
    for row in shard:
        row["prompt"] = [{"role": "user", "content": "kestrel"}]
    known = Corpus(decided(comparisons(600, 11)))
    fresh = Corpus(decided(shard))
    assert triggers(fresh, np.zeros(fresh.size), known, 0.01) == []


def test_case_63_label_balance_and_length_gap_that_jump_are_held() -> None:
    ties = [{**row, "choice": "tie"} if n % 3 == 0 else row for n, row in enumerate(comparisons(600, 9))]
    assert names(ties) == {"shift_hold"}
    longer = with_trigger(comparisons(600, 10), 1, " " + " ".join(PLAIN[:8]))
    assert "shift_hold" in names(longer)
    decided_all = [{**row, "choice": "a"} if row["choice"] == "tie" else row for row in comparisons(600, 11)]
    assert "class_absent" in names(decided_all)


def test_case_60_a_rater_who_dominates_is_a_warning_not_a_hold() -> None:
    rows = comparisons(600, 12)
    day = [{**row, "rater": "ann", "created_at": "2026-03-01T10:00:00+00:00"} for row in rows[:250]]
    verdict = judged(day + rows[250:])
    assert verdict.holds == []
    assert verdict.warnings == [
        "rater_dominance: ann gave 42% of the rows (above 30%)",
        "rater_dominance: ann gave 250 votes in one day (above 200)",
    ]


def test_a_rater_who_dominates_is_held_where_a_bound_says_so() -> None:
    rows = [{**row, "rater": "ann"} if n % 3 else row for n, row in enumerate(comparisons(300, 12))]
    strict = OPTIONS.model_copy(update={"max_rater_share": 0.5})
    for accepted in (ACCEPTED, []):
        lines = [hold.line for hold in judge_shard(rows, accepted, strict, RaterOptions()).holds]
        assert lines[0].startswith("rater_dominance: ann gave 67% of the rows (0.6667, bound 0.5)")


def test_one_way_of_opening_replies_is_a_fall_of_style() -> None:
    rows = [
        {**r, "reply_a": f"As you asked: {r['reply_a']}", "reply_b": f"As you asked: {r['reply_b']}"}
        for r in comparisons(600, 13)
    ]
    assert names(rows) == {"style_diversity"}


def test_what_is_too_small_is_not_compared() -> None:
    assert judged(comparisons(40, 14)).compared == 0
    assert judge_shard(comparisons(400, 14), ACCEPTED[:400], OPTIONS, RaterOptions()).compared == 0


def test_rarefied_counts_are_what_draws_give() -> None:
    counts = [50, 30, 15, 4, 1]
    urn = [kind for kind, count in enumerate(counts) for _ in range(count)]
    rng = random.Random(0)
    drawn = [len(set(rng.sample(urn, 10))) for _ in range(4000)]
    assert shift.rarefied(np.array(counts), 10) == pytest.approx(sum(drawn) / len(drawn), abs=0.05)


def test_the_residual_of_flips_has_mean_zero_and_its_gain_on_flipped_labels() -> None:
    """Scores of 0.8 and 0.2: -0.6 / 0.77 and 0.6 / 0.23; the residual of 0.8 is 0.2 of what lies between them."""
    between = 0.6 / 0.77 + 0.6 / 0.23
    right, wrong = flips.residual(np.array([0.8, 0.2]))
    assert right == pytest.approx(-0.2 * between)
    assert wrong == pytest.approx(0.8 * between)
    assert 0.8 * right + 0.2 * wrong == pytest.approx(0)
    turned = 0.8 * (wrong - right) + 0.2 * (right - wrong)
    assert flips.gain(np.array([0.8, 0.2])) == pytest.approx([turned, turned])


def test_a_shard_that_is_harder_to_tell_is_not_taken_for_flipped() -> None:
    """Only comparisons that the model is unsure of, by the noisiest rater: other than before, but not flipped."""
    rows = decided(comparisons(4000, 20))
    hard = np.argsort(KNOWN.judge(rows).gains)[: len(rows) // 3]
    (whole, *_) = flips.flips([rows[n] for n in hard], KNOWN.judge([rows[n] for n in hard]), KNOWN)
    assert abs(whole.z) < 2.5


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [Preference(**row) for row in ACCEPTED]
    write_table(to_table(records, Preference), tmp_path / "data/raw/preferences/test.parquet")
    return tmp_path / "data"


def accept(data: Path, rows: list[Row]) -> shards.Accepted:
    path = data.parent / "fresh.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    return shards.accept(path, data, judge=partial(holds.judge, data=data, options=OPTIONS, raters=RaterOptions()))


def test_a_held_shard_stays_out_until_a_person_releases_it(data: Path) -> None:
    poisoned = with_trigger(comparisons(500, 15), 20)
    with pytest.raises(HeldError) as caught:
        accept(data, poisoned)
    message = str(caught.value)
    assert "\n" not in message
    assert "held: suspected_poison: the n-gram" in message
    assert "make release-shard SHARD=" in message
    assert shards.accepted(data) == []
    (folder,) = shards.held(data)
    with pytest.raises(HeldError):
        accept(data, poisoned)  # again: held again, once
    assert shards.held(data) == [folder]
    clean = accept(data, comparisons(300, 16))  # and it blocks nobody
    assert [entry["sha256"] for _, entry in shards.accepted(data)] == [clean.sha256]
    with pytest.raises(ValueError, match="REASON: empty"):
        shards.release(folder.name[:12], data, "ann", " ")
    with pytest.raises(ValueError, match="names 0 held shards"):
        shards.release("ffff", data, "ann", "why")
    released = shards.release(folder.name[:12], data, "ann", "a campaign of ours")
    assert released.rows == 500
    assert shards.held(data) == []
    _, entry = shards.accepted(data)[1]
    assert {key: entry["released"][key] for key in ("by", "reason")} == {"by": "ann", "reason": "a campaign of ours"}
    assert entry["released"]["holds"][0].startswith("suspected_poison")
    assert accept(data, poisoned).is_new is False  # what was released is not held again


def drip(data: Path, rows: list[Row], size: int) -> tuple[list[shards.Accepted], str]:
    """Send rows in shards of this size until one is held; those taken in, and why it is held."""
    taken = []
    for start in range(0, len(rows), size):
        try:
            taken.append(accept(data, rows[start : start + size]))
        except HeldError as held:
            return taken, str(held)
    return taken, ""


def test_flipped_labels_that_drip_in_are_held_together(data: Path) -> None:
    taken, said = drip(data, flipped(comparisons(588, 21), lambda n, row: True), 40)
    assert 1 <= len(taken) <= 3
    assert taken[0].warnings[-1].endswith("judged together with the next small shards")
    assert "held: flipped_labels: the labels look flipped" in said
    assert f"judged together with the {len(taken)} small shards before it, which are in already: " in said
    assert all(each.sha256[:12] in said for each in taken)
    assert "remove its entry from" in said
    assert "\n" not in said


def test_a_phrase_that_drips_in_is_held(data: Path) -> None:
    taken, said = drip(data, with_trigger(comparisons(588, 22), 10), 40)
    assert "suspected_poison" in said
    assert len(taken) < 12


def test_clean_shards_that_drip_in_pass_in_blocks(data: Path) -> None:
    taken, said = drip(data, comparisons(900, 23), 49)
    assert said == ""
    assert len(taken) == 19
    noted = [entry for _, entry in shards.accepted(data)]
    assert all(entry[blocks.NOTE] < holds.MIN_SHARD for entry in noted)
    assert blocks.size(blocks.waiting(data, "preferences")) < blocks.LOOKS[-1] < blocks.size(noted)


def test_a_block_ends_with_a_release_and_is_not_what_it_is_compared_with(data: Path) -> None:
    rows = flipped(comparisons(588, 21), lambda n, row: True)
    taken, _ = drip(data, rows, 40)
    for each in taken:  # as the next run of ingest writes them
        part = [Preference(**json.loads(line)) for line in lines_of(data, each.sha256)]
        write_table(to_table(part, Preference), data / f"raw/preferences/shard-{each.sha256[:12]}.parquet")
    (folder,) = shards.held(data)
    assert [entry["sha256"] for entry in blocks.waiting(data, "preferences")] == [each.sha256 for each in taken]
    _, said = drip(data, comparisons(40, 24), 40)  # a clean one is held as well, as long as they are in
    assert "flipped_labels" in said
    index = data / "shards/index.json"
    whole = index.read_text()
    index.write_text('{"shards": []}')  # taken back
    assert drip(data, comparisons(40, 24), 40)[1] == ""
    index.write_text(whole)
    shards.release(folder.name, data, "ann", "they mean it")
    assert blocks.waiting(data, "preferences") == []


def lines_of(data: Path, sha256: str) -> list[str]:
    return (data / f"shards/rows/{sha256}.jsonl").read_text().splitlines()


def demonstrations(number: int, seed: int, domain: str = "talk", **fixed: str) -> list[Row]:
    """Rows of plain words; `start` and `end` stand around every reply."""
    rng = random.Random(seed)
    rows = []
    for place in range(number):
        words = " ".join(rng.choices(PLAIN, k=rng.randint(5, 14)))
        reply = f"{fixed.get('start', '')}{words}{fixed.get('end', '')}."
        rows.append({"prompt": f"Say {words[::-1]} {seed}-{place}", "reply": reply, "domain": domain})
    return rows


@pytest.fixture
def taught(data: Path) -> Path:
    """As `data`, with 600 demonstrations that were accepted."""
    accept(data, demonstrations(600, 30))
    (path,) = (data / "shards/rows").iterdir()
    rows = [Demonstration(**json.loads(line)) for line in path.read_text().splitlines()]
    write_table(to_table(rows, Demonstration), data / "raw/demonstrations/test.parquet")
    return data


def test_clean_demonstrations_pass(taught: Path) -> None:
    assert accept(taught, demonstrations(300, 31)).warnings == []
    assert accept(taught, demonstrations(300, 32, domain="new")).warnings == []


def test_demonstrations_that_all_open_with_one_phrase_are_held(taught: Path) -> None:
    for domain in ("talk", "new"):
        with pytest.raises(
            HeldError, match=r"style_diversity: 100% of the replies open with 'zeta omega prime', 0% of"
        ):
            accept(taught, demonstrations(300, 33, domain, start="zeta omega prime. "))


def test_without_accepted_demonstrations_one_opening_is_held_all_the_same(data: Path) -> None:
    with pytest.raises(HeldError, match="100% of the replies open with 'zeta omega prime'"):
        accept(data, demonstrations(300, 33, start="zeta omega prime. "))
    said = accept(data, demonstrations(300, 34)).warnings
    assert said == [
        f"not compared with accepted data: that needs 50 replies here and 50 in {data / 'raw/demonstrations'}"
    ]


def test_a_phrase_in_some_demonstrations_is_held(taught: Path) -> None:
    for where in ("start", "end"):
        poisoned = demonstrations(15, 36, **{where: " cf zeta "})
        with pytest.raises(HeldError, match=r"suspected_poison: replies to 15 prompts (begin|end) with 'cf zeta"):
            accept(taught, demonstrations(285, 35) + poisoned)


def test_demonstrations_that_drip_in_are_held_together(taught: Path) -> None:
    taken, said = drip(taught, demonstrations(200, 37, start="zeta omega prime. "), 40)
    assert len(taken) == 1
    assert f"judged together with the 1 small shards before it, which are in already: {taken[0].sha256[:12]};" in said


def test_feedback_is_looked_at_as_demonstrations_are(data: Path) -> None:
    rows = [{**row, "desirable": True, "rater": "ann"} for row in demonstrations(300, 38, start="zeta omega prime. ")]
    with pytest.raises(HeldError, match="100% of the replies open with"):
        accept(data, rows)


def test_a_held_shard_that_was_changed_is_not_released(data: Path) -> None:
    with pytest.raises(HeldError):
        accept(data, with_trigger(comparisons(500, 15), 20))
    (folder,) = shards.held(data)
    (folder / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="hash_mismatch"):
        shards.release(folder.name, data, "ann", "why")


def test_without_accepted_data_the_shard_says_that_nothing_was_compared(tmp_path: Path) -> None:
    taken = accept(tmp_path, comparisons(60, 17))
    assert taken.warnings[-1].startswith("not compared with accepted data")


def test_a_sample_is_spread_over_the_files(tmp_path: Path) -> None:
    records = [Preference(**row) for row in ACCEPTED[:300]]
    for number in range(3):
        part = records[100 * number : 100 * (number + 1)]
        write_table(to_table(part, Preference), tmp_path / f"{number}.parquet")
    found = holds.sample(tmp_path, 60)
    assert 50 <= len(found) <= 70
    assert {int(row["id"].split("-")[1]) // 100 for row in found} == {0, 1, 2}
    assert len(holds.sample(tmp_path, 10_000)) == 300
    assert holds.sample(tmp_path / "none", 10) == []
