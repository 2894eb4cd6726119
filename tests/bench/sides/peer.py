"""One epoch of TRL: python -m tests.bench.sides.peer ALGORITHM FOLDER (of material.py).

Its best means on a CPU: bf16, no gradient checkpointing, precomputed reference, rows of one length together, logging
and saving off, token ids given so that nothing is tokenised. Its time holds the reference's pass, as ours does.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.sides import material

# A step of ours has so many replies; of rankings, these make more pairs.
BATCH = int(os.environ.get("PEER_BATCH", material.ROWS_PER_STEP * (material.replies_ranked() - 1)))
# Of a machine that is fast in bf16. "autocast": fp32 weights, bf16 arithmetic; "weights": bf16 weights too.
BF16 = os.environ.get("PEER_BF16", "autocast")
COMPILED = material.COMPILED in os.environ


def common(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "peer"),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1 + COMPILED,
        "torch_compile": COMPILED,
        "learning_rate": 1e-4,
        "bf16": material.dtype_of(folder) == "bfloat16" and BF16 == "autocast",
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **more,
    }


def dtype_of_weights(folder: Path) -> str:
    return "float32" if BF16 == "autocast" else material.dtype_of(folder)


def load(folder: Path) -> tuple[Any, Any]:
    from tasks.rlhf import models

    return models.load_policy(folder / "model", dtype_of_weights(folder)), models.load_tokenizer(folder / "model")


def pairs(folder: Path, number: int) -> tuple[list[Any], list[Any]]:
    """Preferred replies and the others, pairs of one length together."""
    rows = sorted(material.pairs_of(folder, number), key=lambda row: max(row.a.length, row.b.length))
    chosen, rejected = ([(row.a, row.b)[(row.label == 1) == other] for row in rows] for other in (False, True))
    return chosen, rejected


def sft(folder: Path) -> tuple[int, Callable[[], object]]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = material.examples(folder)
    ids = [[*row.prompt_ids, *row.reply_ids] for row in rows]
    masks = [[0] * len(row.prompt_ids) + [1] * len(row.reply_ids) for row in rows]
    model, tokenizer = load(folder)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **common(folder, train_sampling_strategy="group_by_length", max_length=material.MAX_LENGTH),
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": ids, "completion_mask": masks}),
        processing_class=tokenizer,
    )
    return len(rows), trainer.train


def reward(folder: Path) -> tuple[int, Callable[[], object]]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from tasks.rlhf import models

    chosen, rejected = pairs(folder, material.ROWS["reward"])
    tokenizer = models.load_tokenizer(folder / "model")
    dtype = getattr(torch, dtype_of_weights(folder))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1, dtype=dtype)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **common(
                folder,
                per_device_train_batch_size=BATCH // 2,
                train_sampling_strategy="sequential",
                max_length=material.MAX_LENGTH,
            )
        ),
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [[*e.prompt_ids, *e.reply_ids] for e in chosen],
                "rejected_ids": [[*e.prompt_ids, *e.reply_ids] for e in rejected],
            }
        ),
        processing_class=tokenizer,
    )
    return len(chosen), trainer.train


def dpo(folder: Path) -> tuple[int, Callable[[], object]]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    chosen, rejected = pairs(folder, material.ROWS["dpo"])
    model, tokenizer = load(folder)
    dataset = Dataset.from_dict(
        {
            "prompt_ids": [list(e.prompt_ids) for e in chosen],
            "chosen_ids": [list(e.reply_ids) for e in chosen],
            "rejected_ids": [list(e.reply_ids) for e in rejected],
        }
    )

    def train() -> None:
        Prepared(
            model=model,
            args=DPOConfig(
                **common(
                    folder,
                    per_device_train_batch_size=BATCH // 2,
                    train_sampling_strategy="sequential",
                    max_length=material.MAX_LENGTH,
                    precompute_ref_log_probs=True,
                )
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        ).train()

    return len(chosen), train


def kto(folder: Path) -> tuple[int, Callable[[], object]]:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    from tasks.rlhf import feedback

    class Prepared(KTOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    rows = feedback.from_pairs(material.pairs_of(folder, material.ROWS["kto"] // 2))
    rows.sort(key=lambda row: max(row.example.length, row.mismatched.length))
    model, tokenizer = load(folder)
    dataset = Dataset.from_dict(
        {
            "prompt_ids": [list(row.example.prompt_ids) for row in rows],
            "completion_ids": [list(row.example.reply_ids) for row in rows],
            "KL_completion_ids": [list(row.mismatched.reply_ids) for row in rows],
            "label": [row.desirable > 0.5 for row in rows],
        }
    )

    def train() -> None:
        Prepared(
            model=model,
            args=KTOConfig(**common(folder, max_length=material.MAX_LENGTH, precompute_ref_log_probs=True)),
            train_dataset=dataset,
            processing_class=tokenizer,
        ).train()

    return len(rows), train


def grpo(folder: Path, name: str = "grpo") -> tuple[int, Callable[[], object]]:
    import trl
    from datasets import Dataset

    model, tokenizer = load(folder)
    rows = material.prompts(folder)
    prompts = [tokenizer.decode(row.ids) for row in rows]

    def rule(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [material.reward(ids) for ids in completion_ids]

    kind, config = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[name]
    trainer = kind(
        model=model,
        reward_funcs=rule,
        args=config(
            **common(
                folder,
                per_device_train_batch_size=material.PROMPTS_PER_STEP * material.REPLIES_PER_PROMPT,
                num_generations=material.REPLIES_PER_PROMPT,
                max_completion_length=material.NEW_TOKENS,
                beta=0.05,
            )
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    return len(rows) * material.REPLIES_PER_PROMPT, trainer.train


def rloo(folder: Path) -> tuple[int, Callable[[], object]]:
    return grpo(folder, "rloo")


def _tell_epochs(begun: list[float]) -> None:
    """Have every trainer note when its epochs begin."""
    from transformers import TrainerCallback, trainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            begun.append(time.monotonic())

    trainer.DEFAULT_CALLBACKS.append(Clock)


def main(algorithm: str, folder: Path) -> None:
    from tasks.rlhf.train_on_dataset import memory

    begun: list[float] = []  # the work, and where the model is compiled each epoch
    if COMPILED:
        _tell_epochs(begun)
    rows, train = globals()[algorithm](folder)
    begun.append(time.monotonic())
    train()
    seconds = time.monotonic() - begun[-1]
    if COMPILED:
        seconds += begun[1] - begun[0]  # the reference's pass, before the first epoch
    figures = {"seconds": seconds, "rows": rows, **memory()}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
