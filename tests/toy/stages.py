"""One toy stage: `python stages.py NAME`. Writes what the real stage of that name would, without computing."""

import json
import os
import sys
import time
from pathlib import Path

import yaml

NAME = sys.argv[1]
PARAMS = yaml.safe_load(Path("params.yaml").read_text()).get(NAME.partition("@")[0]) or {}
DATA = Path("data")
RUNS = DATA / "runs" / NAME
OUTPUTS = {
    "ingest": ["raw/demonstrations", "raw/preferences"],
    "prepare": ["prepared"],
    "sft": ["models/sft"],
    "reward@0": ["models/reward/0"],
    "judge": ["models/judge"],
    "align": ["models/policy"],
}
ESTIMATE = {"value": 0.7, "n": 50, "low": 0.6, "high": 0.8}
WIN = PARAMS.get("win", 0.7)
WINS = {"value": WIN, "n": 50, "low": WIN - 0.1, "high": WIN + 0.1}
FEW = {"value": 0.01, "n": 50, "low": 0.0, "high": 0.02}
MANY = {"value": 0.99, "n": 50, "low": 0.98, "high": 1.0}
POLICY = {"gold": WINS, "kl": ESTIMATE, "num_tokens": ESTIMATE, "finished": MANY, "declined_unsafe": MANY}
AGAINST = {"gold": WINS, "judge": WINS}
CHAMPION = Path("data/champion/manifest.json").exists()
METRICS = {
    "evaluate": {
        "reward": {"accuracy": ESTIMATE, "ceiling": ESTIMATE},
        "win_rate": AGAINST,
        "win_rate_champion": AGAINST if CHAMPION else None,
        "change": {"declined_unsafe": FEW},
        "change_champion": {"declined_unsafe": FEW} if CHAMPION else None,
        "models": {"policy": POLICY},
    },
    "gate": {
        "verdict": PARAMS.get("verdict", "pass"),
        "needed": 0,
        "baseline": "champion" if CHAMPION else "sft",
        "judged_by": "gold",
        "rules": [{"name": "win_rate", **WINS, "threshold": 0.5, "least": True, "outcome": "pass", "needed": 0}],
    },
}


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, sort_keys=True))


def model(folder: Path, text: str) -> None:
    """A model with random weights where the test brought one (`tiny/`); a text file tells versions apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in Path("tiny").glob("*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "made_from.txt").write_text(text)


RUNS.mkdir(parents=True, exist_ok=True)
(RUNS / "failure.json").unlink(missing_ok=True)
with Path("executed.log").open("a") as log:
    log.write(f"{NAME} {os.environ.get('PLUMBLINE_THREADS')}\n")
start, steps = 0, PARAMS.get("steps", 3)
if (resume := DATA / "resume" / NAME).exists():  # a test's stand-in for a checkpoint
    window = json.loads(resume.read_text())
    start, steps = window["from"], window["to"]
with (RUNS / "telemetry.jsonl").open("w", buffering=1) as file:
    for step in range(start + 1, steps + 1):
        line = {"step": step, "of": steps, "time": time.time(), "seconds": 0.1, "metrics": {"loss": 1 / step}}
        file.write(json.dumps(line) + "\n")
        time.sleep(PARAMS.get("sleep", 0.0))
if (busy := DATA / "busy" / NAME).exists():  # somebody else holds what the stage needs, once
    busy.unlink()
    write(RUNS / "failure.json", {"status": 75, "message": f"{NAME} is held", "traceback": ""})
    sys.exit(75)
if status := PARAMS.get("fail"):
    write(RUNS / "failure.json", {"status": status, "message": f"{NAME} was told to fail", "traceback": ""})
    sys.exit(status)
for out in OUTPUTS.get(NAME, []):
    if out.startswith("models/"):
        model(DATA / out, json.dumps(PARAMS, sort_keys=True) if "constant" not in PARAMS else "constant")
    else:
        write(DATA / out / "part.json", PARAMS.get("value", 0))
if NAME == "report":
    (DATA / "report.html").write_text("<html></html>")
RULES = {key: value for key, value in PARAMS.items() if key != "verdict"}
write(DATA / "reports" / f"{NAME}.json", {"stage": NAME, "params": RULES, "metrics": METRICS.get(NAME, {"rows": 3})})
phases = {"train": 0.01} if NAME in OUTPUTS else {}
write(
    RUNS / "sidecar.json",
    {"stage": NAME, "started": time.time(), "seconds": 0.1} | {"phases": phases, "peak_memory_mb": 20.0},
)
