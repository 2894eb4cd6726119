"""The judgement of the raters: what their votes are worth, and what is said where nothing can be known."""

import numpy as np
import pytest

from tasks.adapters.stage import plain
from tasks.evaluation import rater_section
from tasks.preferences import panel as preference_panel
from tasks.preferences import raters
from tasks.preferences.agreement import Estimate
from tasks.preferences.rater_options import RaterOptions
from tests.tasks.preferences.rater_votes import panel, read, row
from tests.tasks.preferences.test_sources import take

OPTIONS = RaterOptions()
SAYS = {0: "a", 1: "b", 2: "tie"}


def rows_of(right, num_items, per_item, seed=0, tie_share=0.0):
    votes = zip(*panel(right, num_items, per_item, seed, tie_share), strict=True)
    return [row(int(i), f"rater-{r}", SAYS[int(v)]) for i, r, v in votes]


def judged(folder, rows, weighting="reliability", **options):
    return raters.judge(read(folder, rows), OPTIONS.model_copy(update=options), weighting, None)


def test_weights_follow_reliability_and_have_mean_one(tmp_path):
    rows = [*rows_of([0.5, 0.7, 0.8, 0.9, 0.95], 600, 3), row(9000, "source:hh"), row(9001, "newcomer")]
    found = judged(tmp_path, rows)
    weights = [found.factors[f"rater-{r}"] for r in range(5)]
    assert weights == sorted(weights)
    assert weights[0] < 0.15 < 1.5 < weights[4]
    assert np.mean([found.factors[r.rater] for r in rows if r.rater != "source:hh"]) == pytest.approx(1.0)
    assert "source:hh" not in found.factors  # nobody knows who that is: 1
    assert 0.5 < found.factors["newcomer"] < 1.5  # shared nothing: about the mean


def test_off_leaves_every_weight_alone(tmp_path):
    found = judged(tmp_path, rows_of([0.5, 0.7, 0.8, 0.9, 0.95], 200, 3), weighting="off")
    assert found.factors == {}
    assert found.held_out == {}
    assert [row["weight"] for row in found.report["table"]] == [1.0] * 5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_raters_who_agree_by_chance_all_weigh_the_same(tmp_path, seed):
    """The likelihood of reliabilities is nearly flat there: its maximum called a coin right in 0.85, at least 0.73."""
    found = judged(tmp_path, rows_of([0.5] * 12, 2000, 2, seed))
    assert found.factors == {}
    assert {each["right"] for each in found.report["table"]} == {None}
    assert found.report["says"].endswith("nothing can be said of each one's reliability.")
    told = judged(tmp_path, rows_of([0.65] * 12, 2000, 2, seed))
    assert len(told.factors) == 12


def test_who_contradicts_themselves_is_told_by_how_often(tmp_path):
    def vote(rater, n, choice="a"):
        return {"prompt": f"Name river {n}.", "reply_a": "Ebro.", "reply_b": "No.", "choice": choice, "rater": rater}

    first = [vote("ann", 0), vote("ann", 1), vote("ann", 2), vote("ann", 0, "b"), vote("bob", 0, "b"), vote("eve", 9)]
    _, folder = take(tmp_path, first, [vote("ann", 1, "tie"), vote("eve", 9, "b"), vote("bob", 5), vote("bob", 5)])
    report = preference_panel.judge(folder, OPTIONS, "off", None, 0).report
    assert report["contradicted"] == {"ann": 4, "eve": 2}
    assert {each["rater"]: each["contradicted"] for each in report["table"]} == {"ann": 4 / 5, "bob": 0.0}
    assert [cells[9] for cells in rater_section.build(plain(report))["rows"]] == ["0.0%", "80.0%"]  # bob has more votes


def test_the_report_keeps_ties_and_both_bad_apart(tmp_path):
    choices = ["a"] * 5 + ["b"] * 4 + ["tie"] * 3 + ["both_bad"] * 2 + ["unsure"]
    report = judged(tmp_path, [row(n, "ann", choice) for n, choice in enumerate(choices)]).report
    counts = {key: report[key] for key in ("votes", "decided", "tie", "both_bad", "unsure")}
    assert counts == {"votes": 15, "decided": 9, "tie": 3, "both_bad": 2, "unsure": 1}
    assert {key: report["table"][0][key] for key in counts} == counts


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "There are no votes."),
        ([row(n, "source:hh") for n in range(50)], "No row names its rater, so nothing can be said"),
        ([row(n, f"rater-{n % 3}") for n in range(50)], "No comparison was judged by two raters"),
        ([row(n // 2, f"rater-{n % 2}") for n in range(50)], "25 comparisons were judged by two raters or more."),
    ],
)
def test_what_is_said_where_little_is_known(tmp_path, rows, says):
    found = judged(tmp_path, rows)
    assert found.report["says"].startswith(says)
    assert found.held_out == {}


def test_a_source_without_raters_raises_no_flag_and_has_no_row(tmp_path):
    report = judged(tmp_path, [row(n, "source:hh", seconds=0.1) for n in range(300)]).report
    assert report["flags"] == {}
    assert report["table"] == []
    assert report["agreement"]["all"] == {"alpha_nominal": None, "alpha_ordinal": None, "raw": None}
    assert report["ceiling"] == {"agreement": None, "agreement_at_least": None, "truth": None}


def test_agreement_stands_apart_by_domain_and_rubric(tmp_path):
    rows = [
        row(n, rater, "a" if rater == "ann" or n % 4 else "b", domain="xy"[n % 2], rubric=rubric)
        for n in range(80)
        for rater, rubric in (("ann", "r@1"), ("bob", "r@1"))
    ]
    rows += [row(n, rater, "ab"[n % 2], rubric="r@2") for n in range(100, 120) for rater in ("ann", "bob")]
    found = judged(tmp_path, rows).report["agreement"]
    assert found["by_domain"]["x"]["raw"].value == pytest.approx((20 + 20) / 60)  # half of the first 40, the last 20
    assert found["by_domain"]["y"]["raw"].value == 1.0
    assert {name: of["raw"].n for name, of in found["by_rubric"].items()} == {"r@1": 80, "r@2": 20}
    assert found["by_rubric"]["r@2"]["raw"].value == 1.0


def test_opposition_counts_other_raters_who_decided_the_other_way(tmp_path):
    rows = [row(0, "ann", "a"), row(0, "bob", "b"), row(0, "cid", "a"), row(1, "ann", "a"), row(1, "bob", "tie")]
    table = {of["rater"]: of["opposed"] for of in judged(tmp_path, rows).report["table"]}
    assert table == {"ann": 0.5, "bob": 1.0, "cid": 0.5}


def test_held_out_raters_weigh_nothing_and_all_of_them_are_an_error(tmp_path):
    rows = [row(n, "ann", "a") for n in range(40)] + [row(1000 + n, "bob", "ab"[n % 2]) for n in range(40)]
    found = judged(tmp_path / "one", rows, weighting="off")
    assert found.held_out == {"ann": "position_bias"}
    assert found.factors == {"ann": 0.0}
    with pytest.raises(ValueError, match=r"held out: ann \(position_bias\).*prepare.raters.reviewed"):
        judged(tmp_path / "all", rows[:40])
    assert judged(tmp_path / "seen", rows[:40], reviewed=("ann",)).factors == {}


def test_what_the_world_knows_of_its_noise_is_passed_on(tmp_path):
    truth = Estimate(0.84, 2000, 0.83, 0.85)
    found = raters.judge(read(tmp_path, [row(1)]), OPTIONS, "off", truth)
    assert found.report["ceiling"]["truth"] == truth
