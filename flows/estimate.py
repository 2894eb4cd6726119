"""estimate: what a run would take, before it runs: `python -m flows.estimate [--recipe R] [--hardware h100]`.

Tokens, FLOPs, memory and hours of every stage that trains or samples. Exit status: 0, or 2 for bad input.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import costs, facts
from flows.costs import Plan
from tasks.adapters import stage, workspace
from tasks.adapters.commands import complaining
from tasks.files import write_json
from tasks.rlhf.advice import advise
from tasks.rlhf.hardware import GB, NAMES

PARTS = ("weights", "gradients", "optimizer", "activations", "cache")


def plan(home: Path, recipe: str | None, hardware: str | None, data: Path | None = None) -> Plan:
    """Of the project or a recipe; no workspace is made. Raises ValueError for bad input."""
    chosen, here = costs.hardware(hardware)
    if recipe is None:
        return Plan(home / stage.PARAMS, home / "data", chosen, here)
    if recipe not in workspace.recipe_names(home):
        known = ", ".join(workspace.recipe_names(home))
        raise ValueError(f"--recipe {recipe}: no such recipe; infra/recipes has {known or 'none'}")
    root, path = home / "data/workspaces" / recipe, home / f"infra/recipes/{recipe}.yaml"
    # Which data a recipe was given, only its workspace knows.
    asks = workspace.DATA_MARK in path.read_text(encoding="utf-8")
    if asks and data is None and (root / stage.PARAMS).is_file():
        path = root / stage.PARAMS
    return Plan(path, root / "data", chosen, here, data)


def document(planned: Plan) -> dict[str, Any]:
    """The estimate as plain data: bytes, seconds, tokens, FLOPs."""
    stages: dict[str, dict[str, Any]] = {}
    for work in planned.works:
        measured = costs.measured_of(planned.data, work.stage)
        mb = measured.get("peak_gpu_memory_mb" if planned.hardware.name != "cpu" else "peak_memory_mb")
        peak = planned.peak_bytes(work)
        stages[work.stage] = {
            "tokens": round(work.tokens),
            "flops": work.flops(planned.network),
            "memory_bytes": {part: round(work.memory[part]) for part in PARTS} | {"peak": round(peak)},
            "seconds": planned.seconds(work),
            "measured_tokens_per_second": measured.get("tokens_per_second"),
            "calibration": planned.factor(work),
            "peak_of_measured": peak / (mb * 2**20) if mb and planned.here else None,
            "passes": [{**asdict(each), "tokens": round(each.tokens)} for each in work.passes],
        }
    return {
        "algorithm": planned.algorithm.name,
        "hardware": asdict(planned.hardware),
        "parameters": planned.network.shape.parameters,
        "trained_parameters": planned.network.trained,
        "rows": planned.said_of_rows,
        "calibrated_on": sorted(planned.calibration),
        "advice": advise(facts.gather(planned), planned.algorithm.name),
        "stages": stages,
        "hours": sum(row["seconds"] for row in stages.values()) / 3600,
        "peak_memory_gb": max(row["memory_bytes"]["peak"] for row in stages.values()) / GB,
    }


def table(found: dict[str, Any]) -> str:
    hardware = found["hardware"]
    stages: dict[str, dict[str, Any]] = found["stages"]
    lines = [
        f"{found['algorithm']} on {hardware['name']}; {found['parameters']:,} parameters, "
        f"{found['trained_parameters']:,} of them trained",
        f"rows: {found['rows']}",
        "",
        f"{'stage':<10}{'tokens':>10}{'FLOPs':>10}{'weights':>10}{'gradients':>10}{'optimizer':>10}{'activ.':>10}"
        f"{'KV-cache':>10}{'peak':>10}{'time':>10}",
    ]
    for name, row in stages.items():
        memory = "".join(f"{size(row['memory_bytes'][part]):>10}" for part in (*PARTS, "peak"))
        lines.append(f"{name:<10}{row['tokens']:>10,.3g}{row['flops']:>10.2g}{memory}{duration(row['seconds']):>10}")
    peaks = [f"{name} {row['peak_of_measured']:.2f}" for name, row in stages.items() if row["peak_of_measured"]]
    basis = (
        f"Time by tokens/s of an earlier run ({', '.join(found['calibrated_on'])}; the other stages by their median)."
        if found["calibrated_on"]
        else f"Time by the table of tasks/rlhf/hardware.py: {hardware['utilisation']:.0%} of the data sheet's peak."
    )
    lines += [
        "",
        f"In all {duration(3600 * found['hours'])}, at most {found['peak_memory_gb']:.2f} GB of "
        f"{hardware['memory'] / GB:.0f}. {basis}",
        f"Not in it: {left_out(found)}. Runs that stop early take less.",
    ]
    if peaks:
        lines.append(f"Estimated peak memory over that of the earlier run: {', '.join(peaks)}.")
    return "\n".join([*lines, "", *found["advice"]])


def left_out(found: dict[str, Any]) -> str:
    work = "reading, checking and tokenising the data, start-up"
    # The tokens/s of an earlier run of align are by all that it does.
    return work if "align" in found["calibrated_on"] else f"{work}, verifiers, tools and the sandbox they run code in"


def size(number: float) -> str:
    return f"{number / GB:.2f} GB" if number >= 0.1 * GB else f"{number / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.estimate", description=__doc__)
    parser.add_argument("--recipe", help="a name of infra/recipes")
    parser.add_argument("--data", type=Path, help="the data that the recipe asks for")
    parser.add_argument("--hardware", help=f"one of {', '.join(NAMES)}; default: this machine")
    parser.add_argument("--json", type=Path, help="write it there, too")
    options = parser.parse_args(argv)
    found = document(plan(Path().resolve(), options.recipe, options.hardware, options.data))
    sys.stdout.write(f"{table(found)}\n")
    if options.json:
        write_json(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
