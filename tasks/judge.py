"""judge: a second reward model, on prompts and labels that training never sees; it judges, it never trains.

reads   data/models/sft  data/tokenizer  data/prepared/{pairs/{judge,dev},demonstrations}  data/collected/{judge,dev}
        data/raw/demonstrations, data/prepared/canary.json (the canary's texts, and which they are)
writes  data/models/judge
"""

from pathlib import Path
from typing import Any

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.reward import READS, FitParams, fit, save, tables


class Params(FitParams):
    pass


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    from tasks.rlhf import comparisons

    rows = comparisons.read_comparisons(params, *(data / table for table in tables("judge")))
    # Far from every member's seed, so that judge and reward model share neither data nor initialisation.
    model, metrics = fit("judge", params, params.seed * 1000 + 999, rows, data, tracker)
    save(model, data, data / "models/judge")
    return metrics


STAGE = stage.Stage(
    "judge",
    Params,
    run,
    reads=(*READS, *tables("judge"), *tables("dev")),
    writes=("models/judge",),
    trains=True,
)

if __name__ == "__main__":
    stage.main(STAGE)
