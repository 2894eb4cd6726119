"""traces: what the tools did for the last run of align, a line per tool: `python -m flows.traces [--recipe R]`."""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from tasks.adapters import workspace
from tasks.adapters.commands import complaining
from tasks.adapters.delivery import read_lines

TRACES = "runs/align/traces.jsonl"


def summary(data: Path) -> dict[str, dict[str, float]]:
    """Of each tool, over the replies learned from: calls, the share that succeeded, and of the replies that called it
    their number and mean score.

    Raises ValueError where no reply called a tool.
    """
    traces = [trace for trace in read_lines(data / TRACES)[0] if trace["fold"] == "train"]
    if not traces:
        raise ValueError(f"{data / TRACES}: no reply called a tool; name some in align.tools and run align")
    calls: dict[str, list[bool]] = defaultdict(list)
    callers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trace in traces:
        for call in trace["calls"]:
            calls[call["tool"]].append(call["ok"])
        for tool in {call["tool"] for call in trace["calls"]}:
            callers[tool].append(trace)
    found: dict[str, dict[str, float]] = {}
    for tool in sorted(calls):
        scores = [trace["score"] for trace in callers[tool] if trace["score"] is not None]
        found[tool] = {"calls": len(calls[tool]), "ok": mean(calls[tool]), "replies": len(callers[tool])}
        found[tool] |= {"score": mean(scores)} if scores else {}
    return found


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.traces", description=__doc__)
    parser.add_argument("--recipe", help="the workspace of this recipe")
    options = parser.parse_args(argv)
    for tool, found in summary(workspace.existing_workspace(Path(), options.recipe).data).items():
        said = [f"{found['calls']} calls, {found['ok']:.1%} succeeded", f"{found['replies']} replies"]
        said += [f"mean score {found['score']:.3f}"] if "score" in found else []
        sys.stdout.write(f"{tool:<12}{'; '.join(said)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
