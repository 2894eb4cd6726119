"""Reward models in training: what is read from the tables, and what each option does to the scores."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from tasks import records
from tasks.rlhf import bradley_terry, counterexamples, reward_quality, train_reward
from tasks.rlhf.batch import Example
from tasks.rlhf.comparisons import Comparison, check, left_out_by, read_comparisons
from tasks.rlhf.options import ComparisonOptions, RewardOptions
from tasks.rlhf.reward_model import score_examples, score_heads
from tests.tasks.rlhf.test_loops import Recorder


def preference(number, **changes):
    values = {
        "id": f"p{number}",
        "prompt": [{"role": "user", "content": f"prompt {number}"}],
        "reply_a": "x",
        "reply_b": "y",
        "choice": "a",
        "confidence": 0.5,
        "rater": "r",
        "source": "s",
        "domain": "d",
        "cluster": f"c{number}",
    }
    return records.Preference(**values | changes)


def write(path, *rows):
    records.write_table(records.pair_table([records.pair_row(row, [5], [6, 1], [7, 8, 1]) for row in rows]), path)
    return path


def comparison(a, b, label, *labels, margins=(), weight=1.0):
    labels = labels or (label,)
    return Comparison(a, b, label, weight, labels=labels, margins=margins or (0.0,) * len(labels))


def sevens(count=48, label=1.0, **changes):
    """Pairs in which the reply with the 7 is preferred, on either side."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(10, 60, n).tolist()  # noqa: E731
    rows = []
    for number in range(count):
        prompt = draw(3)
        good, bad = Example(prompt, [*draw(2), 7, 1]), Example(prompt, [*draw(3), 1])
        sides = (good, bad, label) if number % 2 else (bad, good, 1 - label)
        rows.append(comparison(*sides, **changes))
    return rows


def options(**changes):
    settings = {"num_epochs": 5, "lr": 1e-2, "batch_tokens": 128, "warmup_share": 0.1}
    return RewardOptions(**settings | changes)


def fit(model, rows, **changes):
    recorder = Recorder()
    model.network.train()
    train_reward.train(model, model.network, rows, options(**changes), 0, recorder)
    model.network.eval()
    return recorder.rows


def size(model, rows):
    return float(np.abs(score_examples(model, [row.a for row in rows])).mean())


def test_tables_become_comparisons(tmp_path):
    scores = '{"helpfulness": [5, 2], "safety": [1, 2]}'
    first = write(tmp_path / "a.parquet", preference(0, scores=scores), preference(1, choice="b", scores=scores))
    second = write(tmp_path / "b.parquet", preference(2, choice="tie", confidence=0.25))
    plain = read_comparisons(options(), first, second)
    assert [row.label for row in plain] == [1.0, 0.0, 0.5]
    assert [row.labels for row in plain] == [(1.0,), (0.0,), (0.5,)]
    assert [row.weight for row in plain] == [0.5, 0.5, 0.25]
    assert [row.cluster for row in plain] == ["c0", "c1", "c2"]
    assert (plain[0].a.reply_ids, plain[0].b.reply_ids) == ([6, 1], [7, 8, 1])

    def margins(source, **changes):
        made = options(margin={"source": source, "size": 2.0}, **changes)
        return [row.margins for row in read_comparisons(made, first, second)]

    assert [row.margins for row in plain] == [(0,), (0,), (0,)]
    assert margins("confidence") == [(1.0,), (1.0,), (0.5,)]
    # (3 - 1) / 2 ahead, of which the choice of b has nothing
    assert margins("scores") == [(2.0,), (0.0,), (0.0,)]
    assert margins("scores", objectives={"safety": 1.0, "helpfulness": 1.0}) == [(6.0, 2.0), (6.0, 2.0)]


def test_objectives_take_their_labels_from_the_scores(tmp_path):
    rows = [
        preference(0, scores='{"helpfulness": [5, 2], "safety": [1, 2]}'),
        preference(1, scores='{"helpfulness": [2, 2]}'),
        preference(2),
    ]
    path = write(tmp_path / "a.parquet", *rows)
    three = options(objectives={"safety": 0.5, "choice": 1.0, "helpfulness": 0.5})
    found = read_comparisons(three, path)  # heads stand in the order of their names
    nan = pytest.approx(np.nan, nan_ok=True)
    assert [row.labels for row in found] == [(1.0, 1.0, 0.0), (1.0, 0.5, nan), (1.0, nan, nan)]
    two = options(objectives={"safety": 0.5, "helpfulness": 0.5})
    assert [row.cluster for row in read_comparisons(two, path)] == ["c0", "c1"]  # the third says nothing of them


def test_what_is_missing_is_said(tmp_path):
    path = write(tmp_path / "a.parquet", preference(0, scores='{"helpfulness": [5, 2]}'))
    for changes, message in (
        ({"margin": {"source": "scores", "size": 1.0}}, None),
        ({"objectives": {"helpfulness": 1.0, "safety": 1.0}}, "objectives has 'safety', but none of the 1 comparisons"),
    ):
        made = options(**changes)
        rows = read_comparisons(made, path)
        if message is None:
            check(rows, made, path)
        else:
            with pytest.raises(ValueError, match=message):
                check(rows, made, path)
    bare = write(tmp_path / "bare.parquet", preference(0))
    made = options(margin={"source": "scores", "size": 1.0})
    with pytest.raises(ValueError, match=r"margin.source = scores, but it gives none of the 1 comparisons of .*bare"):
        check(read_comparisons(made, bare), made, bare)
    with pytest.raises(ValueError, match="no comparisons to learn from; check the sources of ingest"):
        check([], options(), bare)


def test_each_member_leaves_out_its_own_prompts():
    clusters = [f"prompt {number}" for number in range(3000)]
    three = [left_out_by(cluster, [0, 1, 2]) for cluster in clusters]
    assert all(three.count(member) == pytest.approx(1000, abs=100) for member in (0, 1, 2))
    assert three == [left_out_by(cluster, [2, 0, 1]) for cluster in clusters]
    # A member that joins takes prompts over and moves none between the others.
    four = [left_out_by(cluster, [0, 1, 2, 7]) for cluster in clusters]
    assert all(after in (before, 7) for before, after in zip(three, four, strict=True))
    assert four.count(7) == pytest.approx(750, abs=100)
    # The place of a prompt is its own: pinned, since a change would mix up what members have seen.
    assert three[:8] == [2, 0, 2, 2, 1, 1, 0, 2]


def test_it_learns_the_preferences(small_reward_model):
    rows = fit(small_reward_model, sevens())
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["loss"] < 0.2 < rows[0]["loss"]


def test_restraints_keep_scores_small(small_reward_model):
    """Each is measured by the size of the scores after the same training."""
    free, rows = copy.deepcopy(small_reward_model), sevens()
    grown = fit(free, rows)
    assert grown[-1]["score_size"] > 1.5 * grown[0]["score_size"]
    for changes in ({"l2": 0.1}, {"label_smoothing": 0.2}):
        held = copy.deepcopy(small_reward_model)
        fit(held, rows, **changes)
        assert size(held, rows) < 0.8 * size(free, rows), changes
    held = copy.deepcopy(small_reward_model)
    held.bound = 1.0
    fit(held, rows)
    assert size(held, rows) < 1


def test_centering_pulls_the_two_scores_of_a_pair_to_opposite_values(small_reward_model):
    import torch

    rows, sums = sevens(), []
    with torch.no_grad():  # scores that all start around 2
        ids_BL = torch.tensor([[*row.a.prompt_ids, *row.a.reply_ids] for row in rows])
        hidden_D = small_reward_model.network.base_model(ids_BL).last_hidden_state[:, -1].mean(0)
        small_reward_model.network.score.weight.copy_(2 * hidden_D / hidden_D.norm() ** 2)
    for centering in (0.0, 1.0):
        fitted = copy.deepcopy(small_reward_model)
        fit(fitted, rows, centering=centering)
        a, b = (score_examples(fitted, [getattr(row, side) for row in rows]) for side in "ab")
        sums.append(np.abs(a + b).mean())
    assert sums[1] < 0.5 * sums[0]


def test_a_margin_drives_scores_apart(small_reward_model):
    gaps = []
    for margin, changes in ((0.0, {}), (3.0, {"margin": {"source": "confidence", "size": 3.0}})):
        fitted, rows = copy.deepcopy(small_reward_model), sevens(label=0.8, margins=(margin,))
        fit(fitted, rows, **changes)
        a, b = (score_examples(fitted, [getattr(row, side) for row in rows]) for side in "ab")
        gaps.append(np.mean((a - b) * np.sign([row.label - 0.5 for row in rows])))
    assert gaps[0] < 2  # ln 4 = 1.39 fits a label of 0.8
    assert gaps[1] > gaps[0] + 1


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_tie_models_learn_or_keep_their_parameter(small_reward_model, ties):
    rows = sevens() + sevens(24, label=0.5)
    learned, fixed = copy.deepcopy(small_reward_model), copy.deepcopy(small_reward_model)
    fit(learned, rows, ties=ties)
    start = {"davidson": 1.0, "rao_kupper": 2.0}[ties]  # a third of the pairs are ties
    assert learned.ties["learned"]
    assert learned.ties["parameters"]["choice"] != pytest.approx(start, rel=1e-3)
    fit(fixed, rows, ties=ties, tie_parameter=1.25)
    assert fixed.ties == {"model": ties, "parameters": {"choice": pytest.approx(1.25)}, "learned": False}
    with pytest.raises(ValueError, match=rf"ties = {ties} learns its parameter from ties, and 0% of the comparisons"):
        fit(fixed, sevens(), ties=ties)
    planted = [replace(row, planted=True) for row in sevens()]
    with pytest.raises(ValueError, match=r"100% of the comparisons"):  # what the canary planted decides nothing here
        fit(fixed, sevens(24, label=0.5) + planted, ties=ties)


def test_heads_loss_is_the_sum_over_the_labels_there_are():
    """Against one call per head and row; NaN labels add nothing, to the value and to the gradient."""
    import torch

    nan, rng = float("nan"), np.random.default_rng(0)
    table = [(1.0, 0.0, nan), (0.5, nan, nan), (nan, 1.0, 0.5), (0.0, 0.0, 1.0)]
    rows = [comparison(None, None, 1.0, *labels, margins=tuple(rng.uniform(0, 1, 3))) for labels in table]
    a, b = (torch.tensor(rng.normal(size=(4, 3)), requires_grad=True) for _ in "ab")
    made = options(ties="davidson", label_smoothing=0.1, centering=0.1, margin={"source": "scores", "size": 1.0})
    log_tie = torch.tensor([0.1, -0.3, 0.7], dtype=torch.float64)
    output = train_reward.heads_loss(a, b, rows, made, log_tie)
    output.loss_B.sum().backward()
    single = ComparisonOptions(ties="davidson", label_smoothing=0.1, centering=0.1)
    for i, labels in enumerate(table):
        parts = []
        for k in np.flatnonzero(~np.isnan(labels)):
            pair = a[i, k : k + 1], b[i, k : k + 1], torch.tensor([labels[k]])
            parts.append(bradley_terry.loss(*pair, single, torch.tensor([rows[i].margins[k]]), log_tie[k : k + 1]))
        assert output.loss_B[i].item() == pytest.approx(sum(part.loss_B.item() for part in parts), rel=1e-6)
        expected = np.mean([part.metrics["accuracy"].item() for part in parts])
        assert output.metrics["accuracy"][i].item() == pytest.approx(expected)
        assert [bool(g) for g in a.grad[i] != 0] == [label == label for label in labels]


def test_a_swap_costs_its_weight_times_the_square_of_each_gap():
    """Gaps 3 and -1 at weight 0.5: 0.5 * (9 + 1) = 5, with the gradients 2 * 0.5 * 3 and 2 * 0.5 * -1."""
    import torch

    swap = replace(comparison(None, None, 0.5, 0.5, 0.5), kind="swap", equal=0.5)
    other = comparison(None, None, 1.0, 1.0, 0.0)
    a = torch.tensor([[4.0, 1.0], [4.0, 1.0]], requires_grad=True)
    b = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    output = train_reward.heads_loss(a, b, [swap, other], options(), None)
    output.loss_B.sum().backward()
    plain = train_reward.heads_loss(a.detach(), b, [other, other], options(), None)
    assert output.loss_B[0].item() == pytest.approx(5)
    assert output.loss_B[1].item() == plain.loss_B[1].item()
    assert a.grad[0].tolist() == pytest.approx([3, -1])


def test_swaps_close_their_gap_and_count_in_no_figure(small_reward_model):
    """The 7 is preferred; that an 8 stands in place of it must not matter."""
    swaps = [
        replace(row, b=Example(row.a.prompt_ids, [8 if token == 7 else token for token in row.a.reply_ids]), equal=1.0)
        for row in sevens(label=0.5)
        if 7 in row.a.reply_ids
    ]
    swaps = [replace(row, kind="swap") for row in swaps]
    free, held = copy.deepcopy(small_reward_model), copy.deepcopy(small_reward_model)
    fit(free, sevens())
    logged = fit(held, sevens() + swaps)
    gaps = [counterexamples.gap_sizes(model, swaps).mean() for model in (free, held)]
    assert gaps[1] < 0.2 * gaps[0]
    assert counterexamples.right(held, sevens()).mean() == 1
    assert logged[-1]["accuracy"] == 1  # of swaps it would be 0.5


class Words:
    """Words are their own numbers."""

    def prompt(self, messages):
        return [int(word) for message in messages for word in message["content"].split()]

    def reply(self, text):
        return [*map(int, text.split()), 1]


def made(kind, reply, other, prompt="5 6", other_prompt=None):
    from tasks.preferences.counterexamples import Made

    prompts = ([{"role": "user", "content": text}] for text in (prompt, other_prompt or prompt))
    first, second = prompts
    return Made(kind, "way", "c", first, reply, second, other)


def test_texts_become_comparisons():
    texts = [made("corrupted", "7 8", "8"), made("mismatched", "7", "9"), made("corrupted", "7", "9 " * 20)]
    first, second = counterexamples.tokenised(texts, Words(), options(), 10)  # the third is too long
    assert (first.a.prompt_ids, first.a.reply_ids, first.b.reply_ids) == ([5, 6], [7, 8, 1], [8, 1])
    assert (second.a.reply_ids, second.b.reply_ids) == ([9, 1], [7, 1])  # sides in turn
    assert [row.label for row in (first, second)] == [1, 0]
    assert [row.labels for row in (first, second)] == [(1,), (0,)]
    assert [(row.kind, row.way, row.weight, row.equal) for row in (first, second)] == [
        ("corrupted", "way", 1, 0),
        ("mismatched", "way", 1, 0),
    ]
    (swap,) = counterexamples.tokenised([made("swap", "7", "7", "5", "6")], Words(), options(), 10, equal=2.0)
    assert (swap.a.prompt_ids, swap.b.prompt_ids, swap.label, swap.equal) == ([5], [6], 0.5, 2)
    assert not any(row.counted for row in (first, second, swap))


def test_only_the_head_of_the_choice_is_told_who_is_worse():
    nan = pytest.approx(np.nan, nan_ok=True)
    corrupted, swap = made("corrupted", "7", "8"), made("swap", "7", "8")
    for objectives, told, asked in (
        ({"choice": 1.0, "safety": 1.0}, (1, nan), (0.5, 0.5)),
        ({"harm": -1.0, "safety": 1.0}, (0, 1), (0.5, 0.5)),  # no head is of the choice: the whole score is told
    ):
        changed = options(objectives=objectives)
        (row,) = counterexamples.tokenised([corrupted], Words(), changed, 10)
        assert row.labels == told
        (row,) = counterexamples.tokenised([swap], Words(), changed, 10, equal=1.0)
        assert row.labels == asked


def test_mined_rows_are_known_by_their_source(tmp_path):
    path = write(tmp_path / "a.parquet", preference(0), preference(1, source=f"{records.MINED}abc123"))
    plain, mined = read_comparisons(options(), path)
    assert (plain.kind, plain.counted) == ("", True)
    assert (mined.kind, mined.way, mined.counted) == ("mined", "abc123", False)


def test_heads_learn_their_own_objectives_and_the_score_weighs_them(small_reward_model):
    """Helpfulness likes the 7, safety the 8; a reply with both, one, the other, or none."""
    import torch

    rng = np.random.default_rng(0)
    replies = [[7, 8], [7], [8], []]
    rows = []
    for _ in range(120):
        prompt = rng.integers(10, 60, 3).tolist()
        first, second = (replies[i] for i in rng.choice(4, 2, replace=False))
        a, b = (Example(prompt, [*ids, *rng.integers(10, 60, 2).tolist(), 1]) for ids in (first, second))
        labels = [0.5 + 0.5 * ((token in first) - (token in second)) for token in (7, 8)]
        rows.append(comparison(a, b, 0.5, *labels))
    small_reward_model.objectives = {"helpfulness": 1.0, "safety": 2.0}
    small_reward_model.network.score = torch.nn.Linear(16, 2, bias=False)
    fit(small_reward_model, rows, objectives=small_reward_model.objectives, num_epochs=8)
    a, b = ([getattr(row, side) for row in rows] for side in "ab")
    gaps = score_heads(small_reward_model, a) - score_heads(small_reward_model, b)
    for head in (0, 1):
        labels = np.array([row.labels[head] for row in rows])
        assert reward_quality.accuracy(gaps[:, head], labels) > 0.9
    by_hand = score_heads(small_reward_model, a) @ [1.0, 2.0]
    assert score_examples(small_reward_model, a) == pytest.approx(by_hand, rel=1e-5, abs=1e-5)
