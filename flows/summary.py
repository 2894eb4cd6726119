"""What a run did, in figures: data/reports/summary.json for machines, a table for people."""

import json
import resource
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from tasks.adapters import git
from tasks.adapters.execution import Result
from tasks.adapters.workspace import Workspace
from tasks.files import write_json
from tasks.preferences.drift import sentence
from tasks.register import Registration

_TRAINING = ("train", "sample")  # of the phases of a stage, those that a GPU would be rented for


def write(
    space: Workspace,
    results: Mapping[str, Result],
    registration: Registration | None,
    started: float,
    drift: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Gather the figures of a run into data/reports/summary.json. drift: of its data (`versions.moved`)."""
    stages = {name: _stage(space.data, result) for name, result in results.items()}
    seconds = time.time() - started
    training = sum(row["phases"].get(phase, 0.0) for row in stages.values() for phase in _TRAINING)
    own_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    evaluate = _metrics(space.data, "evaluate")
    gate = _metrics(space.data, "gate")
    report = {
        "workspace": space.name,
        "seconds": round(seconds, 1),
        "seconds_outside_training_and_sampling": round(seconds - training, 1),
        # start-up, imports, orchestration, tracking: outside every phase of work, reading and scoring among them
        "seconds_of_overhead": round(seconds - seconds_of_work(list(stages.values())), 1),
        "share_outside_training_and_sampling": round(1 - training / seconds, 3) if seconds else 0.0,
        "peak_memory_mb": max([own_memory, *(row["peak_memory_mb"] or 0.0 for row in stages.values())]),
        "stages": stages,
        "reward": evaluate.get("reward"),
        "judge": evaluate.get("judge"),
        "win_rate": evaluate.get("win_rate"),
        "win_rate_champion": evaluate.get("win_rate_champion"),
        "models": evaluate.get("models"),
        "gate": gate or None,
        "registration": registration.document() if registration else None,
        "drift": list(drift),
        "uncommitted": uncommitted(space.root),
    }
    write_json(space.data / "reports/summary.json", report)
    return report


def uncommitted(root: Path) -> list[str]:
    """Tracked files that now differ from HEAD (dvc.lock after a run), [] without git."""
    try:
        return git.changed_files(root)
    except (git.GitError, FileNotFoundError):
        return []


def seconds_of_work(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in phases of work; of two stages that ran side by side, what they shared counts once, at most."""
    seconds = sum(sum(row["phases"].values()) for row in rows)
    timed = [row for row in rows if row["phases"]]
    for a, b in combinations(timed, 2):
        end = min(row["started"] + row["seconds_in_stage"] for row in (a, b))
        shared = end - max(a["started"], b["started"])
        seconds -= max(0.0, min(shared, sum(a["phases"].values()), sum(b["phases"].values())))
    return float(seconds)


def _stage(data: Path, result: Result) -> dict[str, Any]:
    sidecar = data / "runs" / result.name / "sidecar.json"
    document = _read(sidecar) if result.outcome == "ran" else {}
    return {
        "outcome": result.outcome,
        "seconds": round(result.seconds, 1),
        "started": document.get("started"),
        "seconds_in_stage": document.get("seconds"),
        "phases": document.get("phases") or {},
        "peak_memory_mb": document.get("peak_memory_mb"),
    }


def _metrics(data: Path, name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = _read(data / "reports" / f"{name}.json").get("metrics") or {}
    return metrics


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document


def figures(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures a person wants first, as (name, text)."""
    rows = [
        ("time", f"{report['seconds']:.0f} s, {report['seconds_outside_training_and_sampling']:.0f} s of it outside "
                 "training and sampling"),
        ("peak memory", f"{report['peak_memory_mb']:.0f} MB"),
    ]  # fmt: skip
    told = {each["dataset"]: sentence(each) for each in report["drift"]}
    rows += [(f"{name} since the last version", text) for name, text in told.items() if text]
    for name in ("reward", "judge"):
        scores = report[name] or {}
        if scores.get("accuracy"):
            rows.append(
                (f"{name} accuracy", f"{_estimate(scores['accuracy'])}, ceiling {_estimate(scores.get('ceiling'))}")
            )
    for opponent, label in (("win_rate", "SFT"), ("win_rate_champion", "the champion")):
        for by, estimate in (report[opponent] or {}).items():
            if isinstance(estimate, Mapping):
                rows.append((f"win rate against {label} by {by}", _estimate(estimate)))
    policy = (report["models"] or {}).get("policy") or {}
    for key, label in (("kl", "KL(policy || SFT), nats per reply"), ("num_tokens", "tokens per reply")):
        if policy.get(key):
            rows.append((label, _estimate(policy[key])))
    gate = report["gate"] or {}
    if gate:
        needed = f" ({gate['needed']} more prompts needed)" if gate.get("needed") else ""
        rows.append(("gate", f"{gate['verdict']}{needed}"))
    if report["registration"]:
        rows.append(("model version", report["registration"]["text"]))
    return rows


def _estimate(estimate: Any) -> str:
    if not isinstance(estimate, Mapping) or estimate.get("value") is None:
        return "unknown"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}] n={estimate['n']}"


def headline(report: Mapping[str, Any]) -> str:
    registration = report["registration"]
    return registration["text"] if registration else f"{len(report['stages'])} stages done"


def table(report: Mapping[str, Any]) -> str:
    """The summary as text for a terminal."""
    lines = ["", f"{'stage':<14}{'how':<12}{'seconds':>8}"]
    lines += [f"{name:<14}{row['outcome']:<12}{row['seconds']:>8.1f}" for name, row in report["stages"].items()]
    rows = figures(report)
    width = max(len(name) for name, _ in rows) + 2
    lines += ["", *(f"{name:<{width}}{text}" for name, text in rows)]
    if report["uncommitted"]:
        lines += [
            "",
            f"differs from the last commit: {', '.join(report['uncommitted'])} (`git add` and commit to keep)",
        ]
    return "\n".join(lines)


def markdown(report: Mapping[str, Any]) -> str:
    """The summary as markdown for the Prefect UI."""
    lines = ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in figures(report))]
    return "\n".join(lines)
