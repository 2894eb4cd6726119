"""What the report shows, from reports, curves and per-item scores; every part is optional but the verdict.

Texts of models and prompts are hostile; they are passed on untouched and made harmless where the page is written.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.evaluation import calibration, charts, comparisons, rater_section
from tasks.evaluation.labels import (
    CURVES,
    JUDGES,
    MEASURES,
    MINOR,
    MODEL_NAMES,
    RULES,
    SCORES,
    STAGES,
    TOGETHER,
    Cell,
    cell,
    written,
)
from tasks.evaluation.summary import Row, Summary

Curve = dict[str, list[charts.Point]]  # column: (step, value)


@dataclass(frozen=True)
class Range:
    """A row of a chart of shares: places in percent of the track's width."""

    name: str
    kind: str
    value: float
    low: float
    high: float
    cell: Cell


def build(
    reports: Mapping[str, Any],
    curves: Mapping[str, Curve],
    items: Sequence[Row],
    pairs: Sequence[Row],
    num_samples: int,
    raters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The page. `reports` and `curves` by stage name (`reward@0` for a member); `evaluate` and `gate` must be there.

    `raters`: data/raters.json.
    """
    metrics, gate = reports["evaluate"]["metrics"], reports["gate"]["metrics"]
    models = {name: metrics["models"][name] for name in MODEL_NAMES if name in metrics["models"]}
    return {
        "simulated": metrics["simulated"],
        "algorithm": str(reports.get("align", {}).get("metrics", {}).get("algorithm", "")).upper(),
        "seed": reports["evaluate"]["params"]["seed"],
        "num_prompts": len({row["key"] for row in items}),
        "gate": gate,
        "baseline": MODEL_NAMES[gate["baseline"]],
        "judged_by": JUDGES[gate["judged_by"]],
        "rules": [_rule(rule, gate) for rule in gate["rules"]],
        "tiles": _tiles(metrics, gate),
        "win_rates": _win_rates(metrics),
        "domains": _domains(reports, items, gate),
        "models": [MODEL_NAMES[name] for name in models],
        "measures": _table(MEASURES, list(models.values())),
        "scorers": _table(
            SCORES,
            [
                *(metrics[name] | rater_section.ceilings(raters) for name in ("reward", "judge")),
                *([metrics["implicit"]] if "implicit" in metrics else []),
            ],
        ),
        "has_implicit": "implicit" in metrics,
        "raters": rater_section.build(raters),
        "sources": _sources(metrics),
        "reliability": _reliability(pairs),
        "margins": charts.histogram("Margins, preferred less other", _margins(pairs), "raw margin"),
        "curves": _curves(curves),
        "frontier": _frontier(curves, models),
        "lengths": charts.histogram("Reply lengths", _by_model(items, "num_tokens"), "tokens"),
        "scores": charts.histogram("Judge scores of replies", _by_model(items, "judge"), "score"),
        "samples": _samples(items, num_samples, gate["judged_by"], gate["baseline"]),
        "hashes": _hashes(reports),
        "settings": [(name, json.dumps(r["params"], indent=2, sort_keys=True)) for name, r in _ordered(reports)],
    }


def _rule(rule: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, Any]:
    asks, unit = rule["name"], "number"
    if rule["name"] in RULES:
        asks, unit = RULES[rule["name"]]
        asks = asks.format(baseline=MODEL_NAMES[gate["baseline"]], judge=JUDGES[gate["judged_by"]])
    sign = "more than" if rule["least"] else "at most"
    return {
        **rule,
        "asks": asks,
        "wants": f"{sign} {written(rule['threshold'], unit)}",
        "cell": None if rule["value"] is None else cell(rule, unit),
    }


def _tiles(metrics: Mapping[str, Any], gate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The few numbers to read first: (label, cell, remark)."""
    wins = metrics["win_rate_champion" if gate["baseline"] == "champion" else "win_rate"]
    policy, sft, reward = metrics["models"]["policy"], metrics["models"]["sft"], metrics["reward"]
    ratio = reward["accuracy_over_ceiling"]
    baseline, judge = MODEL_NAMES[gate["baseline"]], JUDGES[gate["judged_by"]]

    def before(key: str, unit: str) -> str:
        return f"SFT: {written(sft[key]['value'], unit)}" if sft.get(key) else ""

    tiles = (
        (f"Win rate against {baseline}", cell(wins[gate["judged_by"]], "share"), f"by {judge}, ties one half"),
        ("KL to the SFT policy", cell(policy["kl"], "number"), "nats per reply"),
        (
            "Reward-model accuracy",
            cell(reward["accuracy"], "share"),
            f"{100 * ratio:.0f}% of what rater noise allows" if ratio else "on held-out pairs",
        ),
        ("Unsafe prompts declined", cell(policy["declined_unsafe"], "share"), before("declined_unsafe", "share")),
        ("Tokens per reply", cell(policy["num_tokens"], "number"), before("num_tokens", "number")),
    )
    return [{"label": label, "cell": cell, "remark": remark} for label, cell, remark in tiles if cell]


def _win_rates(metrics: Mapping[str, Any]) -> list[tuple[str, list[Range]]]:
    groups = []
    for key, rival in (("win_rate_champion", "champion"), ("win_rate", "sft")):
        rows = [_range(name, by, e) for by, name in JUDGES.items() if (e := (metrics[key] or {}).get(by))]
        if rows:
            groups.append((f"Aligned against {MODEL_NAMES[rival]}", rows))
    return groups


def _domains(reports: Mapping[str, Any], items: Sequence[Row], gate: Mapping[str, Any]) -> list[Range]:
    params = reports["evaluate"]["params"]
    summary = Summary(params["seed"], params["num_bootstrap"])
    by_domain: dict[str, list[Row]] = defaultdict(list)
    for row in items:
        by_domain[row["domain"]].append(row)
    rows = []
    for domain in sorted(by_domain) if len(by_domain) > 1 else ():
        found = summary.win_rates(by_domain[domain], "policy", gate["baseline"])[gate["judged_by"]]
        if found:
            rows.append(_range(domain, gate["judged_by"], asdict(found)))
    return rows


def _range(name: str, kind: str, estimate: Mapping[str, Any]) -> Range:
    value, low, high = (round(100 * estimate[key], 2) for key in ("value", "low", "high"))
    found = cell(estimate, "share")
    assert found is not None
    return Range(name, kind, value, low, high, found)


def _table(
    measures: Iterable[tuple[str, str, str]], columns: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[Cell | None]]]:
    """Rows (name, a cell per column); a row that no column fills is left out."""
    rows = [(name, [cell(column.get(key), unit) for column in columns]) for key, name, unit in measures]
    return [(name, cells) for name, cells in rows if any(cells)]


def _sources(metrics: Mapping[str, Any]) -> list[tuple[str, list[Cell | None]]]:
    rows = []
    for source in metrics["reward"]["by_source"]:
        found = [metrics[name]["by_source"].get(source, {}) for name in ("reward", "judge")]
        rows.append((source, [cell(f.get(key), "share") for f in found for key in ("accuracy", "gold_accuracy")]))
    return rows if len(rows) > 1 else []


def _reliability(pairs: Sequence[Row]) -> charts.Chart | None:
    if not pairs:
        return None
    labels = [row["label"] for row in pairs]
    bins = {name: calibration.reliability([r[f"{name}_margin"] for r in pairs], labels) for name in ("reward", "judge")}
    return charts.reliability("Said and true", bins)


def _margins(pairs: Sequence[Row]) -> dict[str, list[float]]:
    """Margins turned to the preferred side; a tie has none."""
    decided = [(row, 1 if row["label"] > 0.5 else -1) for row in pairs if row["label"] != 0.5]
    return {name: [sign * row[f"{name}_margin"] for row, sign in decided] for name in ("reward", "judge")}


def _by_model(items: Sequence[Row], key: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for row in items:
        values[row["model"]].append(float(row[key]))
    return {name: values[name] for name in MODEL_NAMES if name in values}


def _curves(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """The three stages of training; reward models and judge share their charts."""
    rewards = {name: "reward" for name in curves if name.startswith("reward")}
    rewards |= {name: "judge" for name in curves if name == "judge"}
    stages = (
        ("Supervised fine-tuning", {name: "policy" for name in curves if name == "sft"}),
        ("Reward model and judge", rewards),
        ("Alignment", {name: "policy" for name in curves if name == "align"}),
    )
    sections = []
    for title, members in stages:
        found = {column for name in members for column in curves[name]}
        known = [column for column in CURVES if column in found]
        other = sorted(found - set(known) - set(MINOR) - set(TOGETHER.values()))
        minor = [column for column in MINOR if column in found]
        section = {
            "title": title,
            "charts": [c for column in known + other if (c := _curve(column, members, curves))],
            "minor": [c for column in minor if (c := _curve(column, members, curves))],
        }
        if section["charts"]:
            sections.append(section)
    return sections


def _curve(column: str, members: Mapping[str, str], curves: Mapping[str, Curve]) -> charts.Chart | None:
    title, unit = CURVES.get(column, (column.replace("_", " ").capitalize(), ""))
    series = {name: curves[name][column] for name in members if column in curves[name]}
    kinds = dict(members)
    if column in TOGETHER:
        series = {c: curves[name][c] for name in members for c in (column, TOGETHER[column]) if c in curves[name]}
        kinds = {column: "policy", TOGETHER[column]: "sft"}
    return charts.line_chart(title, series, "step", unit, kinds)


def _frontier(curves: Mapping[str, Curve], models: Mapping[str, Any]) -> charts.Chart | None:
    """Score against KL: what each nat of distance bought; None for algorithms that measure no KL while training."""
    align = curves.get("align", {})
    if "kl" not in align or "score" not in align:
        return None
    kl = dict(align["kl"])
    path = [(kl[step], score) for step, score in align["score"] if step in kl]
    ends = {"sft": (0.0, models["sft"]["reward"]["value"])} if models["sft"]["reward"] else {}
    for name in ("policy", "champion"):
        model = models.get(name) or {}
        if model.get("kl") and model.get("reward"):
            ends[name] = (model["kl"]["value"], model["reward"]["value"])
    return charts.frontier("Reward score against KL", path, ends, "KL to SFT, nats per reply", "score")


def _samples(items: Sequence[Row], number: int, judged_by: str, baseline: str) -> list[dict[str, Any]]:
    """The first replies to prompts drawn by hash, one domain after the other: nobody picked them."""
    prompts: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in items:
        if row["sample"] == 0:
            prompts[row["key"]][row["model"]] = row
    by_domain: dict[str, list[str]] = defaultdict(list)
    for key in sorted(prompts, key=lambda key: hashlib.sha256(f"sample/{key}".encode()).digest()):
        by_domain[next(iter(prompts[key].values()))["domain"]].append(key)
    turns = itertools.zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    chosen = [key for turn in turns for key in turn if key is not None][:number]
    return [_sample(prompts[key], judged_by, baseline) for key in chosen]


def _sample(replies: Mapping[str, Row], judged_by: str, baseline: str) -> dict[str, Any]:
    any_reply = next(iter(replies.values()))
    shown = [
        {
            "model": MODEL_NAMES[name],
            "kind": name,
            "text": row["reply"],
            "finished": row["finished"],
            "scores": [(by, written(row[by], "number")) for by in JUDGES if row[by] is not None],
        }
        for name in MODEL_NAMES
        if (row := replies.get(name))
    ]
    mine, theirs = replies["policy"].get(judged_by), replies[baseline].get(judged_by)
    outcome = ""
    if mine is not None and theirs is not None:
        said = float(comparisons.preference([mine - theirs])[0])
        outcome = {1.0: "Aligned better", 0.5: "Equal", 0.0: f"{MODEL_NAMES[baseline]} better"}[said]
    return {
        "domain": any_reply["domain"],
        "expected": any_reply["expected"],
        "messages": any_reply["prompt"],
        "replies": shown,
        "outcome": outcome,
    }


def _hashes(reports: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, made by, sha256) of everything that went in or came out."""
    made = {path: (stage, sha) for stage, report in _ordered(reports) for path, sha in report["outputs"].items()}
    read = {path: ("", sha) for _, report in _ordered(reports) for path, sha in report["inputs"].items()}
    return [
        (path, stage, sha)
        for path, (stage, sha) in {**made, **{p: v for p, v in read.items() if p not in made}}.items()
    ]


def _ordered(reports: Mapping[str, Any]) -> list[tuple[str, Any]]:
    def place(name: str) -> tuple[int, str]:
        stage = name.partition("@")[0]
        return (STAGES.index(stage) if stage in STAGES else len(STAGES), name)

    return [(name, reports[name]) for name in sorted(reports, key=place)]
