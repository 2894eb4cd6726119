"""The report page: complete with full data, sensible with parts missing, harmless with hostile text."""

import copy
import html.parser
import json
import random
import re

import numpy as np
import pyarrow as pa
import pytest

from tasks import gate, records, report, world
from tasks.adapters import stage
from tasks.evaluation import page
from tasks.evaluation.summary import Summary
from tasks.files import write_json
from tasks.preferences import raters as preference_raters
from tasks.preferences.agreement import Estimate
from tasks.preferences.rater_options import RaterOptions
from tests.tasks.preferences import rater_votes

HOSTILE = (
    "</p><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %} ]]> --> &lt; \" ' "
    "\u202egnp.exe\u202c \u2066x\u2069 \x1b[31m \x00 \x85 \u2028 \ufeff \U000e0041 javascript:alert(3)"
)


def make_items(rng):
    """Replies of a fair SFT model and a good aligned one to prompts of the world."""
    quality = {"sft": world.QUALITIES["fair"], "policy": world.QUALITIES["good"]}
    items = []
    for item in world.items(0)[::9]:
        verifier = json.dumps(item.verifier)
        for model, written in quality.items():
            for sample in range(2):
                reply = world.write_reply(item, written, rng)
                gold = world.utility(item.domain, verifier, reply)
                kl = rng.gauss(6, 2) if model == "policy" else None
                expected = {"unsafe": "decline", "lookalike": "assist"}.get(item.domain)
                items.append(
                    {"key": item.text, "id": item.text, "cluster": item.text, "domain": item.domain}
                    | {"source": "world", "expected": expected, "prompt": item.prompt, "model": model}
                    | {"sample": sample, "reply": reply, "finished": rng.random() < 0.97, "gold": gold}
                    | {"num_tokens": len(reply) // 4 + 1, "judge": gold / 2 + rng.gauss(0, 0.5)}
                    | {"reward": gold / 2 + rng.gauss(0, 0.5), "kl": kl, "kl_k3": kl and kl + rng.gauss(0, 0.3)}
                    | {"echo": False, "repetition": 0.0, "declined": world.declines(reply)}
                )
    return items


def make_pairs(rng):
    pairs = []
    for number in range(300):
        gold = [rng.gauss(0, 1.5), rng.gauss(0, 1.5)]
        margin = gold[0] - gold[1]
        label = 0.5 if rng.random() < 0.1 else float(rng.random() < 1 / (1 + np.exp(-1.3 * margin)))
        row = {"id": str(number), "cluster": str(number // 2), "source": rng.choice(["world", "collected"])}
        row |= {"domain": "facts", "rater": "r", "label": label, "gold_a": gold[0], "gold_b": gold[1]}
        for name, noise in (("reward", 0.8), ("judge", 1.2)):
            a, b = (value + rng.gauss(0, noise) for value in gold)
            row |= {f"{name}_a": a, f"{name}_b": b, f"{name}_margin": 1.1 * (a - b)}
        pairs.append(row)
    return pairs


def falling(steps, start, end, rng, noise=0.02):
    return [(i, end + (start - end) * 0.97**i + rng.gauss(0, noise)) for i in range(1, steps + 1)]


def make_curves(rng):
    steps = 60
    return {
        "sft": {"loss": falling(120, 3.5, 0.6, rng), "lr": falling(120, 3e-3, 1e-4, rng, 0)},
        **{
            name: {"loss": falling(80, 0.7, 0.45, rng), "accuracy": falling(80, 0.5, 0.78, rng)}
            | {"margin": falling(80, 0.0, 1.4, rng)}
            for name in ("reward@0", "judge")
        },
        "align": {
            "score": falling(steps, 0.0, 1.1, rng, 0.04),
            "kl": falling(steps, 0.0, 8.0, rng, 0.2),
            "kl_k3": falling(steps, 0.0, 8.1, rng, 0.1),
            "entropy": falling(steps, 1.2, 0.6, rng),
            "clip_fraction": falling(steps, 0.2, 0.05, rng, 0.005),
            "reply_length": falling(steps, 13, 10, rng, 0.3),
            "value_loss": falling(steps, 1.0, 0.2, rng),
            "some_new_algorithms_own": falling(steps, 1.0, 0.2, rng),
        },
    }


def make_reports(items, pairs, simulated=True):
    metrics = {**Summary(0, 200).metrics(items, pairs), "simulated": simulated}
    evaluated = stage.plain(metrics)
    rules = gate.Params(
        min_win_rate=0.5, max_kl=30, max_unfinished_rate=0.1, max_decline_drop=0.05, min_reward_accuracy=0.6
    )
    bodies = {name: {} for name in (*report.REPORTS, "reward@0")}
    bodies |= {"evaluate": evaluated, "gate": stage.plain(gate.judge(rules, evaluated))}
    bodies["align"] = {"algorithm": "ppo"}
    params = {"seed": 0, "num_bootstrap": 200}
    return {
        name: {"stage": name, "params": params, "metrics": body}
        | {"inputs": {f"in/{name}": "a" * 64}, "outputs": {f"models/{name}": "b" * 64}}
        for name, body in bodies.items()
    }


def make_raters(folder, name="rater-0"):
    """As prepare tells of them: three raters of 60 comparisons, one of whom always picks the first."""
    says = ("a", "b", "tie", "both_bad", "unsure")
    rows = [
        rater_votes.row(n, rater, "a" if rater == "lazy" else says[n % (2 + (rater == name) * 3)], domain="xy"[n % 2])
        for n in range(60)
        for rater in (name, "rater-1", "lazy")
    ]
    truth = Estimate(0.8765, 2000, 0.87, 0.88)
    judged = preference_raters.judge(rater_votes.read(folder, rows), RaterOptions(), "reliability", truth)
    return stage.plain(judged.report)


@pytest.fixture(scope="session")
def world_page(tmp_path_factory):
    rng = random.Random(0)
    items, pairs = make_items(rng), make_pairs(rng)
    raters = make_raters(tmp_path_factory.mktemp("raters"))
    parts = {"reports": make_reports(items, pairs), "curves": make_curves(rng), "items": items, "pairs": pairs}
    return {**parts, "raters": raters}


def written(parts, num_samples=12):
    return report.render(page.build(**parts, num_samples=num_samples))


class Reader(html.parser.HTMLParser):
    """What a browser would see: elements, attributes, text."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def poisoned(value):
    """Every text that comes from data, made hostile; the names that the page looks up stay."""
    items = [
        {**row, "reply": HOSTILE, "domain": row["domain"] + HOSTILE, "expected": HOSTILE}
        | {"prompt": [{"role": "user" + HOSTILE, "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]}
        for row in value["items"]
    ]
    pairs = [{**row, "source": row["source"] + HOSTILE} for row in value["pairs"]]
    reports = make_reports(items, pairs)
    reports["gate"]["metrics"]["rules"][0]["name"] = HOSTILE
    reports["align"]["metrics"]["algorithm"] = HOSTILE
    reports["align"]["outputs"] = {HOSTILE: HOSTILE}
    reports["align"]["params"] = {HOSTILE: HOSTILE}
    curves = {**value["curves"], "align": {**value["curves"]["align"], HOSTILE: [(1, 1.0), (2, 2.0)]}}
    raters = {**value["raters"], "says": HOSTILE, "table": [{**value["raters"]["table"][0], "rater": HOSTILE}]}
    return {"reports": reports, "curves": curves, "items": items, "pairs": pairs, "raters": raters}


def test_the_page_shows_every_part(world_page):
    source = written(world_page)
    seen = Reader(source)
    assert seen.open == []
    text = " ".join(" ".join(seen.text).split())
    for part in (
        "Simulated world",
        "PPO: the aligned model against SFT",
        "Win rate against SFT, by gold utility",
        "By domain, against SFT",
        "Unsafe prompts declined",
        "Its ceiling: gold utility on the same labels",
        "Margins, preferred less other",
        "Reward score against KL",
        "Supervised fine-tuning",
        "Reward model and judge",
        "Alignment",
        "Some new algorithms own",
        "b" * 64,
    ):
        assert part in text, part
    assert source.count('<article class="sample">') == 12
    assert "nan" not in source.lower().replace("financ", "")
    assert "None" not in text


def test_the_raters_have_a_section(world_page):
    text = " ".join(" ".join(Reader(written(world_page)).text).split())
    for part in (
        "60 comparisons were judged by two raters or more. Their raters are not seen to agree more than by chance",
        "180 stored votes: ",
        "Alpha, nominal",
        "Domain x",
        "The 3 raters, by number of votes",
        "picks by position",
        "p their true label 87.6% 87.0% to 88.0%",
        "from the raters’ agreement: approximate",
    ):
        assert part in text, part
    counts = world_page["raters"]
    assert f"{counts['tie']} ties, {counts['both_bad']} both bad, {counts['unsure']} unsure" in text
    assert counts["tie"] == counts["both_bad"] == counts["unsure"] == 12


def test_where_no_row_names_its_rater_the_page_says_so_and_shows_no_tables(world_page, tmp_path):
    votes = rater_votes.read(tmp_path, [rater_votes.row(n, "source:hh") for n in range(40)])
    told = stage.plain(preference_raters.judge(votes, RaterOptions(), "off", None).report)
    text = " ".join(" ".join(Reader(written({**world_page, "raters": told})).text).split())
    assert "No row names its rater, so nothing can be said of raters" in text
    for absent in ("Alpha", "by number of votes", "Ceiling of all stored"):
        assert absent not in text
    assert "The raters" not in " ".join(Reader(written({**world_page, "raters": None})).text)


def test_the_page_needs_nothing_from_elsewhere(world_page):
    source = written(world_page)
    seen = Reader(source)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(seen.tags)
    assert not {"src", "srcset", "action", "data"} & {name for name, _ in seen.attributes}
    assert [value for name, value in seen.attributes if name == "href"] == ["card.html"]  # beside it
    assert "url(" not in source
    assert "@import" not in source
    assert "default-src 'none'" in source


def test_hostile_text_stays_text(world_page):
    source = written(poisoned(world_page))
    seen = Reader(source)
    assert seen.open == []
    # The same elements as without poison, in number and kind: nothing that text brought in.
    assert set(seen.tags) == set(Reader(written(world_page)).tags)
    assert "<script" not in source
    assert "<img" not in source
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in "".join(seen.text)
    for hidden in "\u202e\u202c\u2066\u2069\x1b\x00\x85\u2028\ufeff\U000e0041":
        assert hidden not in source
    assert "\u27e8U+202E\u27e9" in source


def test_nothing_in_the_template_steps_around_escaping():
    template = report.TEMPLATE.read_text()
    assert not re.search(r"\|\s*(safe|tojson|xmlattr)|autoescape|Markup", template.split("#}", 1)[1])


def test_the_same_data_give_the_same_page(world_page):
    assert written(world_page) == written(copy.deepcopy(world_page))


def test_samples_go_round_the_domains_and_come_without_anybodys_choice(world_page):
    samples = page.build(**world_page, num_samples=7)["samples"]
    domains = [sample["domain"] for sample in samples]
    assert len(set(domains[:6])) == 6
    assert domains[6] == domains[0]
    shuffled = {**world_page, "items": random.Random(1).sample(world_page["items"], len(world_page["items"]))}
    again = page.build(**shuffled, num_samples=7)["samples"]
    assert [sample["messages"] for sample in again] == [sample["messages"] for sample in samples]


def test_real_data_without_gold_kl_or_safety_prompts(world_page):
    """HH with DPO: no gold, no KL while training, no prompts to decline, one domain."""
    items = [{**row, "gold": None, "expected": None, "domain": "harmless"} for row in world_page["items"]]
    pairs = [{**row, "gold_a": None, "gold_b": None, "source": "hh"} for row in world_page["pairs"]]
    curves = {**world_page["curves"], "align": {"loss": [(1, 0.7), (2, 0.6)], "implicit_margin": [(1, 0.0), (2, 0.4)]}}
    parts = {"reports": make_reports(items, pairs, simulated=False), "curves": curves, "items": items, "pairs": pairs}
    source = written(parts)
    assert "Simulated" not in source
    assert "a judge model" in source
    assert "Gold utility" not in source
    assert "Reward score against KL" not in source
    assert "By domain" not in source
    assert "broken: not measured" in source  # the safety rule


def test_the_implicit_reward_stands_beside_the_reward_model(world_page):
    assert "implicit reward" not in written(world_page)
    pairs = [row | {"implicit_margin": row["label"] - 0.5} for row in world_page["pairs"]]  # always right
    parts = {**world_page, "pairs": pairs, "reports": make_reports(world_page["items"], pairs)}
    source = written(parts)
    assert '<th scope="col">Judge</th><th scope="col">Aligned, implicit reward</th>' in source
    ties = sum(row["label"] == 0.5 for row in pairs)
    row = source.split('<th scope="row">Pair accuracy</th>')[1].split("</tr>")[0]
    assert row.count("<td>") == 3
    assert f"{100 * (1 - 0.5 * ties / len(pairs)):.1f}%" in row.rsplit("<td>", 1)[1]


def test_no_comparisons_no_curves_no_samples(world_page):
    parts = {
        "reports": make_reports(world_page["items"], []),
        "curves": {name: {} for name in ("sft", "align", "judge")},
        "items": world_page["items"],
        "pairs": [],
    }
    source = written(parts, num_samples=0)
    assert "Replies side by side" not in source
    assert "Supervised fine-tuning" not in source
    assert "Margins" not in source


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("fail", "not for release"),
        ("not enough evidence", "about 718 more held-out prompts of"),
        ("pass", "Every rule"),
    ],
)
def test_each_verdict_is_told(world_page, verdict, says):
    parts = copy.deepcopy(world_page)
    parts["reports"]["gate"]["metrics"] |= {"verdict": verdict, "needed": 718}
    assert says in " ".join(written(parts).split())


def test_champion_and_base_have_their_columns(world_page):
    items = world_page["items"] + [
        {**row, "model": name} for name in ("base", "champion") for row in world_page["items"] if row["model"] == "sft"
    ]
    parts = {**world_page, "items": items, "reports": make_reports(items, world_page["pairs"])}
    built = page.build(**parts, num_samples=3)
    assert built["models"] == ["Base", "SFT", "Aligned", "Champion"]
    assert built["baseline"] == "Champion"
    assert [title for title, _ in built["win_rates"]] == ["Aligned against Champion", "Aligned against SFT"]
    assert "against the Champion" in report.render(built)


def write_parts(parts, data):
    for name, body in parts["reports"].items():
        write_json(data / f"reports/{name}.json", body)
    for name, curve in parts["curves"].items():
        (data / "curves").mkdir(exist_ok=True)
        steps = sorted({step for points in curve.values() for step, _ in points})
        lines = [",".join(["step", *curve])]
        for step in steps:
            lines.append(",".join([str(step), *(str(dict(points).get(step, "")) for points in curve.values())]))
        (data / f"curves/{name}.csv").write_text("\n".join(lines) + "\n")
    for name in ("items", "pairs"):
        records.write_table(pa.Table.from_pylist(parts[name]), data / f"evaluation/{name}.parquet")
    write_json(data / "raters.json", parts["raters"])
    (data / "models/reward/0").mkdir(parents=True)


def test_the_stage_writes_the_page(world_page, tmp_path):
    write_parts(world_page, tmp_path)
    metrics = report.run(report.Params(num_samples=12), tmp_path, None)
    source = (tmp_path / "report.html").read_text()
    assert metrics["num_bytes"] == len(source.encode())
    assert metrics["num_bytes"] < 300_000
    assert source == written(world_page)
    look = {"workspace": "main", "by": "ann", "reason": "for <March>", "at": "2026-03-01T10:00:00+00:00"}
    write_json(tmp_path / "sealed_looks.json", {"looks": [look, look, {**look, "workspace": "hh_cpu"}]})
    report.run(report.Params(num_samples=12), tmp_path, None)
    told = (tmp_path / "report.html").read_text()
    assert "main: seen 2 times, last by ann at 2026-03-01T10:00:00+00:00 (for &lt;March&gt;); hh_cpu: seen once" in told


@pytest.mark.parametrize("gone", ["reports/gate.json", "curves/align.csv", "evaluation/items.parquet", "raters.json"])
def test_a_missing_input_is_named_and_nothing_is_written(world_page, tmp_path, gone):
    write_parts(world_page, tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{gone}: missing.*dvc repro"):
        report.run(report.Params(num_samples=12), tmp_path, None)
    assert not (tmp_path / "report.html").exists()
