"""Replies judged one by one: their partners, their loop, and the reference point that a step shares."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.records import write_table
from tasks.rlhf import algorithms, feedback, train_on_feedback
from tasks.rlhf.batch import Example, Pair
from tasks.rlhf.logprobs import reply_sums, token_logprobs
from tasks.rlhf.preference import kto
from tests.tasks.rlhf.test_loops import Recorder, pairs

SECTION = {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 10**6}


def named(count=24):
    return [dataclasses.replace(pair, id=f"p{i}") for i, pair in enumerate(pairs(count))]


def frozen(model):
    reference = copy.deepcopy(model)

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(reference, examples)

    return logprobs


def train(model, rows, seed=0, logprobs=None, **options):
    recorder = Recorder()
    algorithm = algorithms.load("kto", {**SECTION, **options})
    train_on_feedback.train_on_feedback(
        model, partial(reply_sums, logprobs or frozen(model)), rows, algorithm, seed, recorder
    )
    return recorder.rows


def test_a_pair_gives_a_wanted_and_an_unwanted_row_and_a_tie_none():
    a, b, c, d = Example([5], [6, 1]), Example([5], [7, 1]), Example([8], [9, 1]), Example([8], [2, 1])
    rows = feedback.from_pairs(
        [Pair(a, b, 1.0, 2.0, "x"), Pair(a, b, 0.5, 1.0, "tie"), Pair(c, d, 0.0, 1.0, "y"), Pair(c, d, 0.8, 1.0, "z")]
    )
    told = [(row.id, row.example, row.desirable, row.weight) for row in rows]
    assert told == [
        ("x/a", a, 1.0, 2.0), ("x/b", b, 0.0, 2.0), ("y/a", c, 0.0, 1.0), ("y/b", d, 1.0, 1.0),
        ("z/a", c, 0.8, 1.0), ("z/b", d, pytest.approx(0.2), 1.0),
    ]  # fmt: skip


def test_both_verdicts_of_a_pair_are_learned_from_in_one_step(tiny_model, monkeypatch):
    """So that their prompt is read once for both."""
    learned = []

    def noted(model, examples, *rest):
        if torch.is_grad_enabled():
            learned.append([tuple(example.prompt_ids) for example in examples])
        return token_logprobs(model, examples, *rest)

    monkeypatch.setattr(train_on_feedback, "token_logprobs", noted)
    rows = feedback.from_pairs([pair for pair in named(12) if pair.label != 0.5])
    train(tiny_model, rows[::2] + rows[1::2], batch_tokens=64)
    assert len(learned) > 2
    assert sum(map(len, learned)) == len(rows) == 16
    for prompts in learned:
        assert all(prompts.count(prompt) == 2 for prompt in prompts)


def test_the_balance_of_verdicts_is_said_where_it_is_off():
    judged = [feedback.Judged(f"{n}", Example([n], [9, 1]), float(n < 6), 1.0) for n in range(8)]
    rows = feedback.from_pairs([], judged)

    def ratio(**weights):
        return feedback.balance(rows, kto.Config(beta=0.1, **weights))

    assert ratio(desirable_weight=0.5) == 1.5
    assert ratio() == 3.0
    assert ratio(undesirable_weight=0.0) is None
    assert "wanted replies weigh 3 times what unwanted ones do" in feedback.unbalanced(3.0)
    assert "no reply that weighs anything is unwanted" in feedback.unbalanced(None)
    assert feedback.unbalanced(1.0) is feedback.unbalanced(4 / 3) is None


def test_a_partner_is_the_own_prompt_with_a_reply_to_another():
    rows = feedback.from_pairs(named(60))
    replies = {tuple(row.example.reply_ids): tuple(row.example.prompt_ids) for row in rows}
    longest = max(row.example.length for row in rows)
    used = []
    for row in rows:
        assert row.mismatched.prompt_ids == row.example.prompt_ids
        whole = [
            reply for reply in replies if reply[: len(row.mismatched.reply_ids)] == tuple(row.mismatched.reply_ids)
        ]
        assert all(replies[reply] != tuple(row.example.prompt_ids) for reply in whole)
        assert len(row.mismatched.reply_ids) > 0
        assert row.mismatched.length <= longest
        used.append(whole[0])
    assert len(set(used)) > 0.6 * len(rows)  # nearly every reply is somebody's partner


def test_partners_depend_on_the_data_and_not_on_its_order():
    rows = named()
    shuffled = [rows[i] for i in np.random.default_rng(3).permutation(len(rows))]
    first, second = ({row.id: row.mismatched for row in feedback.from_pairs(found)} for found in (rows, shuffled))
    assert first == second
    renamed = [dataclasses.replace(pair, id=f"q{i}") for i, pair in enumerate(rows)]
    assert [row.mismatched for row in feedback.from_pairs(renamed)] != list(first.values())


def test_a_partners_reply_is_cut_to_the_longest_row():
    rows = feedback.mismatch(["a", "b"], [Example([5] * 8, [6, 1]), Example([7], [8] * 6)])
    assert rows == [Example([5] * 8, [8, 8]), Example([7], [6, 1])]


def test_partners_in_runs_of_one_prompt():
    """Rows whose neighbours in the ring answer the same prompt reach beyond them, also round the end."""
    examples = [Example([5], [n, 1]) for n in range(10, 30)] + [Example([6], [40, 1])]
    for seed in range(20):
        partners = feedback.mismatch([f"{seed}-{i}" for i in range(21)], examples)
        assert all(partner.reply_ids == [40, 1] for partner in partners[:20])
        assert partners[20].reply_ids != [40, 1]


def test_one_prompt_alone_is_refused():
    alone = [Pair(Example([5], [6, 1]), Example([5], [7, 1]), 1.0, 1.0, f"{i}") for i in range(3)]
    with pytest.raises(ValueError, match=r"all 6 replies answer one prompt: .* give data with two prompts or more"):
        feedback.from_pairs(alone)


def test_the_reference_point_is_that_of_the_whole_step(tiny_model):
    rows = feedback.from_pairs(named())
    moved = copy.deepcopy(tiny_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    partners = [row.mismatched for row in rows]
    log_ratios = reply_sums(frozen(tiny_model), partners) - reply_sums(frozen(moved), partners)
    expected = np.average(log_ratios, weights=[row.weight for row in rows])
    assert expected > 0.1
    for micro in (65536, 1):
        first = train(copy.deepcopy(tiny_model), rows, logprobs=frozen(moved), micro_batch_tokens=micro)[0]
        assert first["reference_point"] == pytest.approx(expected, rel=1e-4)


def test_metrics_are_means_over_wanted_and_unwanted_rows(tiny_model):
    """And not over what the canary planted."""
    rows = feedback.from_pairs(named())
    moved = frozen(tiny_model)
    policy = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.02)
    log_ratios = reply_sums(frozen(policy), [r.example for r in rows]) - reply_sums(moved, [r.example for r in rows])
    wanted = np.array([row.desirable > 0.5 for row in rows])
    weight = np.array([row.weight for row in rows])
    planted = [dataclasses.replace(row, planted=True, weight=3.0) for row in rows[:5]]
    first = train(policy, rows + planted, logprobs=moved, micro_batch_tokens=30)[0]
    chosen, rejected = (np.average(log_ratios[side], weights=weight[side]) for side in (wanted, ~wanted))
    assert first["chosen_log_ratio"] == pytest.approx(chosen, rel=1e-4)
    assert first["rejected_log_ratio"] == pytest.approx(rejected, rel=1e-4)
    assert first["implicit_margin"] == pytest.approx(0.1 * (chosen - rejected), rel=1e-3, abs=1e-5)
    right = (log_ratios > first["reference_point"]) == wanted
    assert first["implicit_accuracy"] == pytest.approx(np.average(right, weights=weight), rel=1e-5)


def test_it_starts_at_the_reference_and_learns(tiny_model):
    rows = train(copy.deepcopy(tiny_model), feedback.from_pairs(named()), num_epochs=12, batch_tokens=128)
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-3)  # 1 - sigmoid(0)
    assert rows[0]["reference_point"] == pytest.approx(0.0, abs=1e-3)
    assert rows[-1]["implicit_accuracy"] > 0.75
    assert rows[-1]["chosen_log_ratio"] > rows[-1]["rejected_log_ratio"]


def test_same_seed_same_weights(tiny_model):
    results = []
    for _ in range(2):
        model = copy.deepcopy(tiny_model)
        train(model, feedback.from_pairs(named()), batch_tokens=128)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def test_the_wanted_reply_is_imitated_by_its_weight(tiny_model):
    rows = feedback.from_pairs(named())
    plain, more = (train(copy.deepcopy(tiny_model), rows, sft_weight=w)[0]["loss"] for w in (0.0, 0.5))
    sums = reply_sums(frozen(tiny_model), [row.example for row in rows])
    nll = [-s / len(r.example.reply_ids) * (r.desirable > 0.5) for s, r in zip(sums, rows, strict=True)]
    assert more - plain == pytest.approx(0.5 * np.average(nll, weights=[row.weight for row in rows]), rel=1e-4)


def test_one_kind_of_verdict_is_not_enough(tiny_model):
    rows = feedback.from_pairs(named())
    for kept, missing in ((1.0, "unwanted"), (0.0, "wanted")):
        some = [row for row in rows if row.desirable == kept]
        with pytest.raises(ValueError, match=f"none of the {len(some)} replies is {missing} with a weight above 0"):
            train(copy.deepcopy(tiny_model), some)
        planted = [dataclasses.replace(row, planted=True) for row in rows]
        with pytest.raises(ValueError, match=f"replies is {missing} with a weight above 0"):
            train(copy.deepcopy(tiny_model), some + planted)


def test_replies_judged_alone_follow_the_pairs_and_share_their_ring():
    pair = Pair(Example([5], [6, 1]), Example([5], [7, 1]), 1.0, 2.0, "x")
    alone = [feedback.Judged("f", Example([8], [9, 1]), 0.0, 0.25)]
    rows = feedback.from_pairs([pair], alone)
    assert [(row.id, row.desirable, row.weight) for row in rows] == [
        ("x/a", 1.0, 2.0),
        ("x/b", 0.0, 2.0),
        ("feedback/f", 0.0, 0.25),
    ]
    assert rows[2].mismatched.prompt_ids == [8]
    assert rows[2].mismatched.reply_ids in ([6, 1], [7, 1])
    tie = dataclasses.replace(pair, label=0.5)
    judged = [*alone, feedback.Judged("g", Example([5], [2, 1]), 1.0, 1.0)]
    assert [row.id for row in feedback.from_pairs([tie], judged)] == ["feedback/f", "feedback/g"]
    with pytest.raises(ValueError, match="none of the 1 pairs has a preferred reply"):
        feedback.from_pairs([tie])


def test_feedback_teaches_as_pairs_do_by_its_weight(tiny_model):
    """The same reply, liked or not, moves the policy to its side; a lower weight moves it less."""
    pairs, prompt = named(), [5, 6, 7]
    reply = Example(prompt, [9, 8, 1])
    moved = {}
    for desirable, weight in ((1.0, 20.0), (1.0, 2.0), (0.0, 20.0)):
        policy = copy.deepcopy(tiny_model)
        judged = [feedback.Judged("f", reply, desirable, weight)]
        train(policy, feedback.from_pairs(pairs, judged), num_epochs=4, batch_tokens=128)
        after, before = (reply_sums(frozen(model), [reply])[0] for model in (policy, tiny_model))
        moved[desirable, weight] = float(after - before)
    assert moved[1.0, 20.0] > 0.05
    assert moved[0.0, 20.0] < 0 < moved[1.0, 20.0]
    assert moved[0.0, 20.0] < moved[1.0, 2.0] < moved[1.0, 20.0]


def test_prepared_feedback_is_read_and_none_changes_nothing(tmp_path):
    ids = pa.list_(pa.int32())
    columns = {"id": pa.string(), "prompt_ids": ids, "reply_ids": ids, "desirable": pa.bool_(), "weight": pa.float64()}
    row = {"id": "r", "prompt_ids": [5], "reply_ids": [6, 1], "desirable": False, "weight": 0.25}
    write_table(pa.Table.from_pylist([row], schema=pa.schema(columns)), tmp_path / "some.parquet")
    write_table(pa.Table.from_pylist([], schema=pa.schema(columns)), tmp_path / "none.parquet")
    assert feedback.read(tmp_path / "some.parquet") == [feedback.Judged("r", Example([5], [6, 1]), 0.0, 0.25)]
    pairs = named()
    assert feedback.from_pairs(pairs, feedback.read(tmp_path / "none.parquet")) == feedback.from_pairs(pairs)
