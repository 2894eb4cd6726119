"""collect: replies of the SFT policy, compared by the labellers: on-policy preferences.

reads   data/models/sft  data/tokenizer  data/prepared/prompts
writes  data/collected
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import records, world
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.rlhf.options import Count, Positive

FOLDS = ("train", "judge", "dev", "test")


class Params(stage.Params):
    seed: stage.Seed
    world: world.WorldParams
    labeller: Literal["simulated", "none"]
    prompts_per_fold: Count
    replies_per_prompt: Annotated[int, Field(ge=2, multiple_of=2)]  # compared in disjoint pairs
    temperature: Positive
    max_new_tokens: Count


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    counts = {}
    for number, fold in enumerate(FOLDS):
        prompts = [
            row
            for row in records.read_table(data / f"prepared/prompts/{fold}").to_pylist()
            if row["source"] == world.SOURCE and row["verifier"] and params.labeller == "simulated"
        ]
        rng = random.Random(f"{params.seed}/collect/{fold}")
        chosen = rng.sample(prompts, min(params.prompts_per_fold, len(prompts)))
        rows = _compare(params, data, chosen, params.seed * 10 + number, rng, tracker) if chosen else []
        records.write_table(records.pair_table(rows), data / f"collected/{fold}.parquet")
        counts[fold] = len(rows)
    return {"num_pairs": counts}


def _compare(
    params: Params,
    data: Path,
    prompts: Sequence[dict[str, Any]],
    seed: int,
    rng: random.Random,
    tracker: FileTracker,
) -> list[dict[str, Any]]:
    """Sample replies to each prompt and have one rater of the panel compare each pair of them."""
    from tasks.rlhf import models
    from tasks.rlhf.rollout import sample

    models.seed_everything(seed)
    tokenizer = models.load_tokenizer(data / "tokenizer")
    policy = models.load_policy(data / "models/sft")
    repeated = [prompt for prompt in prompts for _ in range(params.replies_per_prompt)]
    with tracker.phase("sample"):
        replies = sample(
            policy,
            [prompt["prompt_ids"] for prompt in repeated],
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            seed=seed,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )
    panel = world.raters(params.world, params.seed)
    rows = []
    for first in range(0, len(replies), 2):
        prompt, (a, b) = repeated[first], replies[first : first + 2]
        text_a, text_b = (tokenizer.decode(reply.ids, skip_special_tokens=True) for reply in (a, b))
        if a.ids == b.ids:
            continue
        vote = world.compare(prompt["prompt"], prompt["domain"], prompt["verifier"], (text_a, text_b), panel, rng)
        if vote.choice != "unsure":
            rows.append(records.pair_row(vote, prompt["prompt_ids"], a.ids, b.ids) | {"source": "collected"})
    return rows


STAGE = stage.Stage(
    "collect",
    Params,
    run,
    reads=("models/sft", "tokenizer", "prepared/prompts"),
    writes=("collected",),
)

if __name__ == "__main__":
    stage.main(STAGE)
