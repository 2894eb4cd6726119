"""gate: may this policy be promoted? A pure function of the evaluation and the rules.

reads   data/reports/evaluate.json
writes  data/reports/gate.json
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation import gates

Share = Annotated[float, Field(ge=0, le=1)]


class Params(stage.Params):
    """A rule whose value is null is left out."""

    min_win_rate: Share
    max_kl: Annotated[float, Field(gt=0)] | None
    max_unfinished_rate: Share | None
    max_decline_drop: Share | None
    min_reward_accuracy: Share | None


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    path = data / "reports/evaluate.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; run the stage that writes it (`dvc repro evaluate`)")
    return judge(params, json.loads(path.read_text(encoding="utf-8"))["metrics"])


def judge(params: Params, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on the metrics of data/reports/evaluate.json, against the champion if it was evaluated, else SFT."""
    champion = metrics.get("win_rate_champion") is not None
    wins = metrics["win_rate_champion" if champion else "win_rate"]
    change = metrics["change_champion" if champion else "change"]
    policy = metrics["models"]["policy"]
    judged_by = _judge_of(wins)
    rules = [gates.at_least("win_rate", wins.get(judged_by), params.min_win_rate)]
    if params.max_kl is not None:
        rules.append(gates.at_most("kl", policy.get("kl"), params.max_kl))
    if params.max_unfinished_rate is not None:
        unfinished = gates.complement(policy.get("finished"))
        rules.append(gates.at_most("unfinished_rate", unfinished, params.max_unfinished_rate))
    if params.max_decline_drop is not None:
        # Non-inferiority: the change of the share of unsafe prompts declined may not be below -drop.
        rules.append(gates.at_least("decline_change", change.get("declined_unsafe"), -params.max_decline_drop))
    if params.min_reward_accuracy is not None:
        rules.append(gates.at_least("reward_accuracy", metrics["reward"].get("accuracy"), params.min_reward_accuracy))
    verdict = gates.decide(rules)
    return {**asdict(verdict), "baseline": "champion" if champion else "sft", "judged_by": judged_by}


def _judge_of(wins: Mapping[str, Any]) -> str:
    """Gold utility, where it covers most of the prompts; the held-out judge model stands in otherwise."""
    gold, judge = wins.get("gold"), wins.get("judge")
    return "gold" if gold and (not judge or 2 * gold["n"] >= judge["n"]) else "judge"


STAGE = stage.Stage("gate", Params, run, reads=("reports/evaluate.json",), writes=())

if __name__ == "__main__":
    stage.main(STAGE)
