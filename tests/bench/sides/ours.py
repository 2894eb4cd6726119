"""One epoch of our loop: python -m tests.bench.sides.ours ALGORITHM FOLDER (of material.py)."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tasks.adapters.telemetry import FileTracker
from tests.bench.sides import material


def sft(folder: Path, tracker: FileTracker) -> tuple[int, Callable[[], object]]:
    from tasks.rlhf import models
    from tasks.rlhf.logprobs import reply_nll
    from tasks.rlhf.options import DatasetOptions
    from tasks.rlhf.train_on_dataset import train_on_dataset

    rows = material.examples(folder)
    model = trained(models.load_policy(folder / "model", material.dtype_of(folder))).train()
    options = DatasetOptions(lr=1e-4, num_epochs=1, batch_tokens=budget(rows, material.ROWS_PER_STEP))
    return len(rows), lambda: train_on_dataset(
        model, rows, reply_nll(model), lambda row: len(row.reply_ids), options, 0, tracker
    )


def reward(folder: Path, tracker: FileTracker) -> tuple[int, Callable[[], object]]:
    from tasks.rlhf import reward_model, train_reward
    from tasks.rlhf.comparisons import Comparison
    from tasks.rlhf.options import RewardOptions

    rows = [
        Comparison(a=pair.a, b=pair.b, label=pair.label, weight=pair.weight, labels=(pair.label,), margins=(0.0,))
        for pair in material.pairs_of(folder)
    ]
    options = RewardOptions(lr=1e-4, num_epochs=1, batch_tokens=budget(rows, material.ROWS_PER_STEP // 2))
    model = reward_model.new_reward_model(folder / "model", material.dtype_of(folder), 0, options)
    trained(model.network).train()
    return len(rows), lambda: train_reward.train(model, model.network, rows, options, 0, tracker)


def dpo(folder: Path, tracker: FileTracker) -> tuple[int, Callable[[], object]]:
    from tasks.rlhf import algorithms
    from tasks.rlhf.logprobs import reply_sums
    from tasks.rlhf.train_on_pairs import train_on_pairs

    rows = material.pairs_of(folder, material.ROWS["dpo"])
    policy, reference = policy_and_reference(folder)
    reference_sums = partial(reply_sums, reference)
    batch_tokens = budget(rows, material.ROWS_PER_STEP // 2)
    algorithm = algorithms.load("dpo", {"beta": 0.1, "lr": 1e-4, "num_epochs": 1, "batch_tokens": batch_tokens})
    return len(rows), lambda: train_on_pairs(policy, reference_sums, rows, algorithm, 0, tracker)


def kto(folder: Path, tracker: FileTracker) -> tuple[int, Callable[[], object]]:
    from tasks.rlhf import algorithms, feedback
    from tasks.rlhf.logprobs import reply_sums
    from tasks.rlhf.train_on_feedback import train_on_feedback

    rows = feedback.from_pairs(material.pairs_of(folder, material.ROWS["kto"] // 2))
    policy, reference = policy_and_reference(folder)
    reference_sums = partial(reply_sums, reference)
    batch_tokens = budget(rows, material.ROWS_PER_STEP)
    section = {"beta": 0.1, "lr": 1e-4, "num_epochs": 1, "batch_tokens": batch_tokens}
    algorithm = algorithms.load("kto", section | {"desirable_weight": 1.0, "undesirable_weight": 1.0})
    return len(rows), lambda: train_on_feedback(policy, reference_sums, rows, algorithm, 0, tracker)


def grpo(folder: Path, tracker: FileTracker, name: str = "grpo") -> tuple[int, Callable[[], object]]:
    import numpy as np
    import yaml

    from tasks.rlhf import algorithms
    from tasks.rlhf.batch import ScorePart
    from tasks.rlhf.experience import Learner
    from tasks.rlhf.train_on_rollouts import train_on_rollouts

    prompts = material.prompts(folder)
    policy, reference = policy_and_reference(folder)
    section = yaml.safe_load((material.ROOT / "params.yaml").read_text())["align"][name] | {
        "num_steps": len(prompts) // material.PROMPTS_PER_STEP,
        "prompts_per_step": material.PROMPTS_PER_STEP,
        "replies_per_prompt": material.REPLIES_PER_PROMPT,
        "num_updates": 1,
        "num_minibatches": 1,
        "max_kl": None,
        "held_out_every": None,
        "patience": None,
        "min_finished": 0.0,
        "missing_eos_penalty": 0.0,
        "lr": 1e-4,
    }
    algorithm = algorithms.load(name, section)
    learner = Learner(
        policy=policy,
        algorithm=algorithm.module,
        config=algorithm.config,
        critic=None,
        reference_logprobs=reference,
        score=lambda examples, _: {"rule": ScorePart(np.array([material.reward(list(e.reply_ids)) for e in examples]))},
        eos_id=policy.config.eos_token_id,
        pad_id=policy.config.pad_token_id,
        max_new_tokens=material.NEW_TOKENS,
    )
    replies = len(prompts) * material.REPLIES_PER_PROMPT
    return replies, lambda: train_on_rollouts(learner, prompts, [], algorithm.options, 0, tracker)


def rloo(folder: Path, tracker: FileTracker) -> tuple[int, Callable[[], object]]:
    return grpo(folder, tracker, "rloo")


def trained(model: Any) -> Any:
    """The model, compiled where that is asked for."""
    from tasks.rlhf.compiled import compile_layers

    if material.COMPILED in os.environ:
        compile_layers(model)
    return model


def policy_and_reference(folder: Path) -> tuple[Any, Callable[..., Any]]:
    import torch

    from tasks.rlhf import models
    from tasks.rlhf.logprobs import token_logprobs

    frozen = trained(models.load_policy(folder / "model", material.dtype_of(folder)))

    def reference(examples: Sequence[Any]) -> Any:
        with torch.no_grad():
            return token_logprobs(frozen, examples)

    return trained(models.load_policy(folder / "model", material.dtype_of(folder))), reference


def budget(rows: Sequence[Any], per_step: int) -> int:
    """Tokens of a step that make steps of `per_step` rows on average; the last is not counted as short."""
    return round(per_step * sum(example.length for row in rows for example in row.examples) / len(rows))


def main(algorithm: str, folder: Path) -> None:
    from tasks.rlhf import models
    from tasks.rlhf.train_on_dataset import memory

    models.seed_everything(0)
    with closing(FileTracker("align", folder / "ours")) as tracker:
        rows, train = globals()[algorithm](folder, tracker)
        if material.COMPILED in os.environ:
            train()
            shutil.rmtree(folder / "ours/checkpoints", ignore_errors=True)  # the next epoch begins at its beginning
        started = time.monotonic()
        train()
        seconds = time.monotonic() - started
        steps = len(tracker.curve)
    last = tracker.curve[max(tracker.curve)]
    figures = {"seconds": seconds, "rows": rows, "steps": steps, "loss": last["loss"], **memory()}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
