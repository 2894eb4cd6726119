"""Mining: which pairs are found, who is asked, and that a mined file comes in as any shard with its provenance kept."""

import json
from types import SimpleNamespace

import pytest

from tasks import mine, world
from tasks.hashes import content_hash
from tasks.mine import Reply, most_wrong
from tasks.preferences.shards import accept
from tasks.records import MINED
from tasks.rlhf.rewards_options import RewardsOptions
from tests.tasks.conftest import inside


def test_the_most_wrongly_ordered_pair_by_hand():
    replies = [Reply("a", 2.0, 0.0), Reply("b", 1.5, 3.0), Reply("c", 0.5, 2.0), Reply("d", 3.0, 3.5)]
    # a above b by 0.5 and above c by 1.5, though both are worth more; d is above all and rightly so.
    assert most_wrong(replies, high=1.0, lead=1.0) == (replies[2], replies[0])
    assert most_wrong(replies, high=1.0, lead=2.5) == (replies[1], replies[0])
    assert most_wrong(replies, high=1.0, lead=3.5) is None
    assert most_wrong(replies, high=2.5, lead=1.0) is None  # a is no reply that the policy is rewarded for
    assert most_wrong([replies[3], replies[0]], high=0.0, lead=1.0) is None


def test_the_better_reply_stands_on_either_side():
    pair = Reply("good", 0.0, 3.0), Reply("bad", 1.0, 1.0)
    for name, confidence in (("gold", 1.0), ("judge", 0.7616)):  # a lead of 2 in log-odds: 2 sigmoid(2) - 1
        rows = []
        for number in range(20):
            asked = {"prompt": [{"role": "user", "content": str(number)}], "domain": "d", "cluster": "c"}
            rows.append(mine._preference(asked, pair, name, name, f"{MINED}feed"))
        assert {row.choice for row in rows} == {"a", "b"}
        assert all(getattr(row, f"reply_{row.choice}") == "good" for row in rows)
        assert all(row.confidence == pytest.approx(confidence, abs=1e-4) for row in rows)


def prompt(source, verifier):
    return {"source": source, "domain": "arithmetic", "verifier": verifier and json.dumps(verifier), "prompt_ids": [1]}


def test_the_first_that_can_judge_a_prompt_does(tmp_path):
    params = SimpleNamespace(rewards=RewardsOptions(), model=SimpleNamespace(dtype="float32"))
    asked = mine.Judges(["gold", "verifier"], params, tmp_path)
    replies = [("2 + 3 = 5.", [5]), ("2 + 3 = 6.", [6])]
    numeric = {"kind": "numeric", "answer": "5", "question": "2 + 3"}
    assert asked.values(prompt(world.SOURCE, numeric), replies) == ("gold", [3.5, 1.0])
    assert asked.values(prompt("people", numeric), replies) == ("verifier", [1.0, 0.0])
    assert asked.values(prompt("people", None), replies) is None
    assert mine.Judges(["verifier"], params, tmp_path).values(prompt(world.SOURCE, numeric), replies)[0] == "verifier"


def test_the_judge_gives_the_log_odds(built):
    from tasks.rlhf.batch import Example
    from tasks.rlhf.reward_model import load_reward, score_examples

    params = SimpleNamespace(rewards=RewardsOptions(), model=SimpleNamespace(dtype="float32"))
    asked = mine.Judges(["judge"], params, built / "data")
    name, values = asked.values(prompt("people", None), [("x", [7, 1]), ("y", [8, 9, 1])])
    model = load_reward(built / "data/models/judge")
    scores = score_examples(model, [Example([1], [7, 1]), Example([1], [8, 9, 1])])
    assert name == "judge"
    assert values[0] - values[1] == pytest.approx(model.scale * (scores[0] - scores[1]))
    assert asked.rater("judge") == f"judge@{content_hash(built / 'data/models/judge')[:12]}"


def test_a_mined_file_is_a_shard_that_says_where_it_is_from(built, tmp_path, capsys):
    out = tmp_path / "mined.jsonl"
    with inside(built):
        assert mine.main(["--prompts", "300", "--replies", "12", "--out", str(out)]) == 0
        assert f"make run FRESH={out}" in capsys.readouterr().out
        first = out.read_bytes()
        assert mine.main(["--prompts", "300", "--replies", "12", "--out", str(out)]) == 0
        assert out.read_bytes() == first
    rows = [json.loads(line) for line in first.decode().splitlines()]
    items = {item.text: item for item in world.items(0)}
    policy = content_hash(built / "data/models/policy")
    for row in rows:
        item = items[row["prompt"][-1]["content"]]
        values = {side: world.utility(item.domain, json.dumps(item.verifier), row[f"reply_{side}"]) for side in "ab"}
        worse = "b" if row["choice"] == "a" else "a"
        assert values[row["choice"]] >= values[worse] + 1
        assert (row["source"], row["rater"], row["cluster"]) == (MINED + policy[:12], "gold", item.text)
    assert rows
    taken = accept(out, tmp_path / "data")
    assert (taken.dataset, taken.rows) == ("preferences", len(rows))
    kept = (tmp_path / f"data/shards/rows/{taken.sha256}.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in kept} == {MINED + policy[:12]}


def test_what_is_asked_wrongly_is_one_line(built, capsys):
    with inside(built):
        assert mine.main(["--judges", "gold,oracle"]) == 2
        assert "'oracle' is none of gold, verifier, judge" in capsys.readouterr().err
        assert mine.main(["--replies", "1"]) == 2
        assert "at least 1 and 2" in capsys.readouterr().err
