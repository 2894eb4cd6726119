"""What both sides train on: prepared rows, a tokenizer and a checkpoint of four million parameters.

python -m tests.bench.sides.material FOLDER [PAIRS]
"""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tests.tasks.folders import bare

ROOT = Path(__file__).parents[3]
MAX_LENGTH = 256
MODEL = {
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 688,
    "vocab_size": 4096,
    "max_length": MAX_LENGTH + 128,
}
ROWS = {"sft": 512, "reward": 256, "dpo": 192, "kto": 192, "grpo": 32, "rloo": 32}  # prompts for the last two
ROWS_PER_STEP = 16  # sequences of an optimiser step; of pairs, half of it
REPLIES_PER_PROMPT = 4
PROMPTS_PER_STEP = 16
NEW_TOKENS = 64
COMPILED = "BENCH_COMPILED"  # in the environment: compile the model, and time a second epoch
RANKED = "BENCH_RANKED"  # in the environment: pairs are those of rankings of so many replies


def params(pairs: str) -> dict[str, Any]:
    """Those of the recipe for real dialogues, or of the embedded default; with the model of the comparison."""
    name = "infra/recipes/hh_cpu.yaml" if pairs else "params.yaml"
    document: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    document["model"] |= MODEL | {"dtype": faster_dtype()}
    if pairs:
        document["ingest"]["sources"] = [{"kind": "file", "path": pairs, "demonstrations": "chosen"}]
    return document


@cache
def faster_dtype() -> str:
    """The number type whose matrix products are faster here: a CPU without instructions for bfloat16 emulates them."""
    import torch

    def seconds(name: str) -> float:
        rows, weight = (torch.ones(shape, dtype=getattr(torch, name)) for shape in ((2048, 256), (688, 256)))
        taken = []
        for _ in range(5):
            started = time.process_time()
            torch.nn.functional.linear(rows, weight)
            taken.append(time.process_time() - started)
        return min(taken)

    return min(("float32", "bfloat16"), key=seconds)


def dtype_of(folder: Path) -> str:
    return str(yaml.safe_load((folder / "params.yaml").read_text())["model"]["dtype"])


def main(folder: Path, pairs: str) -> None:
    data = folder / "data"
    bare(folder)
    if pairs:
        shutil.copy(pairs, data / "inputs")
        pairs = Path(pairs).name
    chosen = params(pairs)
    (folder / "params.yaml").write_text(yaml.safe_dump(chosen))
    for stage in ("ingest", "prepare"):
        command = [sys.executable, "-m", f"tasks.{stage}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    from tasks.rlhf import base_model, models
    from tasks.rlhf.options import ModelOptions

    tokenizer = models.load_tokenizer(data / "tokenizer")
    model = base_model.load_base(ModelOptions(**chosen["model"]), tokenizer, 0)
    models.save(model, tokenizer, folder / "model")
    lengths = {
        name: [sum(e.length for e in row.examples) for row in rows]
        for name, rows in (("sft", examples(folder)), ("dpo", pairs_of(folder)))
    }
    described = {name: {"rows": len(found), "mean_tokens": sum(found) / len(found)} for name, found in lengths.items()}
    described["model"] = {"parameters": model.num_parameters(), "dtype": chosen["model"]["dtype"]}
    sys.stdout.write(json.dumps(described) + "\n")


def examples(folder: Path) -> list[Any]:
    from tasks.rlhf import dataset

    found = dataset.read_examples(folder / "data/prepared/demonstrations")
    return [row for row in found if row.length <= MAX_LENGTH][: ROWS["sft"]]


def pairs_of(folder: Path, number: int = ROWS["reward"]) -> list[Any]:
    """Pairs with a preferred reply; or as many of rankings, see RANKED."""
    from tasks.rlhf import dataset

    found = dataset.read_pairs(folder / "data/prepared/pairs/train")
    decided = [row for row in found if row.label in (0, 1) and max(row.a.length, row.b.length) <= MAX_LENGTH]
    return rankings(decided, replies_ranked())[:number] if replies_ranked() > 2 else decided[:number]


def replies_ranked() -> int:
    return int(os.environ.get(RANKED, "2"))


def rankings(pairs: list[Any], size: int) -> list[Any]:
    """The pairs of a ranking for each prompt: of its own two replies, and of the next ones, cut where too long."""
    from tasks.rlhf.batch import Example, Pair

    said = [example.reply_ids for pair in pairs for example in (pair.a, pair.b)]
    made = []
    for number, pair in enumerate(pairs):
        prompt = pair.a.prompt_ids
        replies = [said[(2 * number + place) % len(said)][: MAX_LENGTH - len(prompt)] for place in range(size)]
        ranked = [Example(prompt, reply) for reply in replies]
        made += [Pair(a, b, 1.0, 2 / (size * (size - 1))) for a, b in combinations(ranked, 2)]
    return made


def prompts(folder: Path) -> list[Any]:
    from tasks.rlhf import dataset

    found = dataset.read_prompts(folder / "data/prepared/prompts/train")
    return [row for row in found if len(row.ids) <= MAX_LENGTH - NEW_TOKENS][: ROWS["grpo"]]


def reward(reply_ids: list[int]) -> float:
    """A rule that costs nothing: the share of even tokens."""
    return sum(token % 2 == 0 for token in reply_ids) / max(1, len(reply_ids))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
