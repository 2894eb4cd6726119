"""The path of preference data from a file to its split: rows per second, memory, what twice the rows cost, and what a
fresh shard on top of a history costs, apart from comparing it with 20,000 accepted comparisons at most (`take`); beside
it the same job done the obvious way on whole frames.

    python tests/bench/data.py [--rows 200000] [--shard 1000] [--obvious 20000] [--folder PATH] [--seed 0]
        [--stages ingest,validate,prepare]

Stages run as processes of their own, as in the pipeline; memory is that of a stage with its workers, pages that they
share counted once. `within` is all time but that of turning texts into tokens. Writes data/bench/data.json. 1,000,000
rows take about half an hour, generating them included.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/bench")]
OUT = ROOT / "data/bench/data.json"
STAGES = ("ingest", "validate", "prepare")
TOKENS = ("tokenizer", "tokenise")  # phases that are outside `within`


def workspace(root: Path) -> None:
    """The default recipe on a file of votes; a small simulated world gives the demonstrations it also wants."""
    from tests.tasks.folders import bare

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["world"] |= {"num_demonstrations": 400, "num_preferences": 100}
    params["model"]["max_length"] = 4096
    params["validate"]["holds"]["max_quarantine_rate"] = 0.1
    params["ingest"] |= {
        "sources": [{"kind": "world"}, {"kind": "file", "path": "votes.jsonl"}],
        "max_quarantine_rate": 0.1,
    }
    bare(root)
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def measured(command: list[str], root: Path) -> dict[str, float]:
    """Seconds, those of the processor, and the peak of memory over the process and its children."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=root, env=environment)
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(process.pid, peak))
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    watch.join()
    if process_status := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}: exit {process_status}")
    spent = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return {name: round(value, 2) for name, value in spent.items()} | {"peak_memory_mb": round(peak[0])}


def _watch(pid: int, peak: list[float]) -> None:
    while True:
        began = time.monotonic()
        if not (pages := _memory(pid)):
            return
        peak[0] = max(peak[0], pages)
        # Of a large process the kernel walks every page: asked four times a second that takes a tenth of the cores.
        time.sleep(max(0.25, 50 * (time.monotonic() - began)))


def _memory(pid: int) -> float:
    """In MB, of a process and its children; a page that several share is divided among them. 0 when it is gone."""
    try:
        proc = Path(f"/proc/{pid}")
        own = next(line for line in (proc / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
        children = " ".join(path.read_text() for path in proc.glob("task/*/children")).split()
    except (OSError, StopIteration):
        return 0.0
    return int(own.split()[1]) / 1024 + sum(_memory(int(child)) for child in children)


def pipeline(root: Path, stages: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in stages:
        found[name] = measured([sys.executable, "-m", f"tasks.{name}"], root)
        sidecar = json.loads((root / f"data/runs/{name}/sidecar.json").read_text())
        found[name]["phases"] = sidecar["phases"]
    total = sum(ran["seconds"] for ran in found.values())
    on_tokens = sum(ran["phases"].get(phase, 0.0) for ran in found.values() for phase in TOKENS)
    cpu = sum(ran["cpu_seconds"] for ran in found.values())
    return found | {
        "seconds": round(total, 1),
        "seconds_within": round(total - on_tokens, 1),
        "cpu_seconds_within": round(cpu - on_tokens, 1),
        "peak_memory_mb": max(ran["peak_memory_mb"] for ran in found.values()),
    }


def of_rows(folder: Path, number: int, seed: int, shard: int, stages: Sequence[str]) -> dict[str, Any]:
    """A history of so many rows from nothing, then with a fresh shard on top."""
    import votes

    root = folder / f"rows-{number}"
    workspace(root)
    path = votes.write(root / "data/inputs/votes.jsonl", number, seed)
    found: dict[str, Any] = {"rows": number, "bytes_per_row": round(path.stat().st_size / number)}
    found["history"] = pipeline(root, stages)
    found["rows_per_second"] = round(number / found["history"]["seconds_within"])
    found["report"] = json.loads((root / "data/reports/ingest.json").read_text())["metrics"]
    fresh = votes.write(folder / f"fresh-{number}.jsonl", shard, seed, first=10**9)
    taken = measured([sys.executable, "-m", "tests.bench.sides.take", str(fresh)], root)
    found["fresh_shard"] = {"rows": shard, "take": taken, **pipeline(root, stages)}
    shutil.rmtree(root)
    return found


def obvious(folder: Path, number: int, seed: int) -> dict[str, Any]:
    import votes

    root = folder / f"obvious-{number}"
    votes.write(root / "votes.jsonl", number, seed)
    found = measured([sys.executable, str(ROOT / "tests/bench/sides/frames.py"), str(root)], root)
    shutil.rmtree(root)
    return {"rows": number, **found, "rows_per_second": round(number / found["seconds"])}


def shown(result: dict[str, Any]) -> list[str]:
    heads = "".join(f" {name:>8}" for name in ("take", *STAGES, "within"))
    lines = [f"{'rows':>9}{heads} {'rows/s':>7} {'peak MB':>8}   (s)"]
    for each in result["sizes"]:
        for name in ("history", "fresh_shard"):
            ran, rows = each[name], each["rows"] if name == "history" else f"+{each[name]['rows']}"
            rate = each["rows_per_second"] if name == "history" else ""
            spent = " ".join(f"{ran[stage]['seconds'] if stage in ran else 0:>8.1f}" for stage in ("take", *STAGES))
            lines.append(f"{rows:>9} {spent} {ran['seconds_within']:>8.1f} {rate:>7} {ran['peak_memory_mb']:>8}")
    lines.append(f"twice the rows take {result['ratio']} times as long, {result['ratio_of_memory']} times the memory")
    lines += [
        f"the obvious way: {each['rows']} rows in {each['seconds']:.0f} s, {each['rows_per_second']} rows/s, "
        f"peak {each['peak_memory_mb']} MB"
        for each in result["obvious"]
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="of the larger history; half of it comes first")
    parser.add_argument("--shard", type=int, default=1000, help="rows of the fresh shard")
    parser.add_argument("--obvious", type=int, default=20_000, help="rows of the obvious way; 0: without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the data, where there is room for six times the rows")
    parser.add_argument("--stages", type=lambda names: names.split(","), default=STAGES, help="which of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        sizes = [
            of_rows(Path(folder), number, given.seed, given.shard, given.stages)
            for number in (given.rows // 2, given.rows)
        ]
        plain = [obvious(Path(folder), given.obvious, given.seed)] if given.obvious else []
    half, whole = (each["history"] for each in sizes)
    result = {
        "sizes": sizes,
        "ratio": round(whole["seconds_within"] / half["seconds_within"], 2),
        "ratio_of_memory": round(whole["peak_memory_mb"] / half["peak_memory_mb"], 2),
        "obvious": plain,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    sys.stdout.write("\n".join(shown(result)) + "\n")


if __name__ == "__main__":
    main()
