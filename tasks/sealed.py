"""sealed: one look at the sealed fold, before a release, by name and reason: `python -m tasks.sealed --by --reason`.

reads   data/sealed, and what evaluate reads
writes  data/reports/sealed.json; a line of data/sealed_looks.json of the project, for every look at any workspace

No stage of the graph: what nobody looked at is worth one honest answer, and every further look makes it worth less.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks import evaluate, gate, register
from tasks.adapters import stage, workspace
from tasks.adapters.commands import complaining
from tasks.adapters.telemetry import FileTracker
from tasks.adapters.workspace import Workspace
from tasks.evaluation import looks
from tasks.evaluation.held_out import Fold
from tasks.evaluation.looks import Look
from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.records import read_table

FOLD = Fold("sealed", "sealed/prompts", "sealed/safety", ("sealed/pairs",))


def seen(space: Workspace) -> list[Look]:
    """The looks at this workspace's sealed fold so far, the oldest first. Raises ValueError for a torn file."""
    return [each for each in looks.read(space.home / "data" / looks.FILE) if each["workspace"] == space.name]


def look(space: Workspace, by: str, reason: str) -> dict[str, Any]:
    """Measure data/models/policy on the sealed fold, and note down who asked and why.

    The look is on record before anyone sees a figure; one that fails before showed nothing, and is none.
    Raises ValueError where nobody answers for it, the fold is empty or the models belong to another split.
    """
    for key, value in (("BY", by), ("REASON", reason)):
        if not value.strip():
            raise ValueError(f"{key}: empty; a look at the sealed fold names the person and the reason")
    _check_fold(space.data)
    _check_split(space.data)
    params = stage.read_params(evaluate.Params, "evaluate", space.root / stage.PARAMS)
    rules = stage.read_params(gate.Params, "gate", space.root / stage.PARAMS)
    with closing(FileTracker("sealed", space.data)) as tracker:
        items, pairs, metrics = evaluate.measure(params, space.data, tracker, FOLD)
    metrics, policy = stage.plain(metrics), content_hash(space.data / "models/policy")
    made = {
        "workspace": space.name,
        "by": by.strip(),
        "reason": reason.strip(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": register.registered(space),
        "policy": policy,
        "sealed": content_hash(space.data / "sealed"),
    }
    _note(space, made)
    report = {
        "look": made,
        "looks": len(seen(space)),
        "prompts": len({row["key"] for row in items}),
        "comparisons": len(pairs),
        "params": params.model_dump(mode="json"),
        "metrics": metrics,
        "gate": stage.plain(gate.judge(rules, metrics)),
        "test": _on_test(space.data, rules, policy),
    }
    write_json(space.data / "reports/sealed.json", report)
    return report


def _check_fold(data: Path) -> None:
    if not any((data / path).exists() and read_table(data / path).num_rows for path in (FOLD.prompts, FOLD.safety)):
        raise ValueError(
            f"{data / 'sealed'}: the sealed fold is empty; set folds.sealed in params.yaml above 0 (0.05), then "
            "`make run`: what is sealed is taken from train, so models learn anew"
        )


def _check_split(data: Path) -> None:
    """Models that learned from another split may have learned from what is sealed now."""
    members = sorted(path.name for path in (data / "models/reward").iterdir())
    for stem in (
        "sft",
        "judge",
        "align",
        *(f"{'reward' if name.isdigit() else 'solutions'}@{name}" for name in members),
    ):
        for name, sha256 in _report(data, stem).get("inputs", {}).items():
            if name.startswith("prepared/") and content_hash(data / name) != sha256:
                text = f"{data / name}: not what {stem} learned from"
                raise ValueError(f"{text}; `make run` first, so that no model saw what is sealed now")


def _on_test(data: Path, rules: gate.Params, policy: str) -> dict[str, Any] | None:
    """The same rules on the test fold, where the very same policy was evaluated on it."""
    report = _report(data, "evaluate")
    if report.get("inputs", {}).get("models/policy") != policy:
        return None
    judged: dict[str, Any] = stage.plain(gate.judge(rules, report["metrics"]))
    return judged


def _report(data: Path, name: str) -> dict[str, Any]:
    path = data / f"reports/{name}.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document


def _note(space: Workspace, made: dict[str, Any]) -> None:
    document = {"looks": [*looks.read(space.home / "data" / looks.FILE), made]}
    for data in dict.fromkeys((space.home / "data", space.data)):  # the workspace's copy is for its report
        write_json(data / looks.FILE, document)


def warning(before: list[Look]) -> str | None:
    """What to know before a look that is not the first."""
    if not before:
        return None
    last = before[-1]
    return (
        f"warning: the sealed fold was seen {looks.times(len(before))} before, last by {last['by']} at {last['at']} "
        f"({last['reason']}); where that led to a change, it is a second test fold by now"
    )


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """What a person reads: each rule of the gate on the test fold and on the sealed one."""
    what = f"{report['prompts']} prompts, {report['comparisons']} comparisons"
    version = report["look"]["version"] or f"policy {report['look']['policy'][:12]}, not registered"
    yield f"sealed fold: {what}; {version}; seen {looks.times(report['looks'])}"
    on_test = {rule["name"]: rule for rule in (report["test"] or {}).get("rules", [])}
    yield f"{'':<16} {'test':<24} {'sealed':<24} {'n':>6}  rule"
    for rule in report["gate"]["rules"]:
        bound = f"{'at least' if rule['least'] else 'at most'} {rule['threshold']:g}: {rule['outcome']}"
        yield f"{rule['name']:<16} {_said(on_test.get(rule['name'])):<24} {_said(rule):<24} {rule['n']:>6}  {bound}"
    verdict = report["gate"]["verdict"]
    yield f"verdict on the sealed fold: {verdict}, against {report['gate']['baseline']}; it changes nothing by itself"


def _said(rule: Mapping[str, Any] | None) -> str:
    if rule is None or rule["value"] is None:
        return "not measured"
    return f"{rule['value']:.3g} [{rule['low']:.3g}, {rule['high']:.3g}]"


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.sealed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", help="the workspace of this recipe")
    parser.add_argument("--by", required=True, help="who looks")
    parser.add_argument("--reason", required=True, help="why, in a line")
    options = parser.parse_args(argv)
    space = workspace.existing_workspace(Path(), options.recipe)
    with space.held():
        before = seen(space)
        report = look(space, options.by, options.reason)
    if said := warning(before):
        sys.stderr.write(f"{said}\n")
    lines = [*table(report), f"noted in {space.home / 'data' / looks.FILE}; commit it"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    os.environ |= {**stage.QUIET, **stage.threads_environment(os.environ.get("PLUMBLINE_THREADS"))}
    sys.exit(main())
