"""sft: teach the base model the demonstrations; the loss is on replies only.

reads   data/contract.json (that the data satisfied it)  data/tokenizer  data/prepared/demonstrations
writes  data/models/sft
"""

from pathlib import Path
from typing import Any

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.rlhf.options import DatasetOptions, ModelOptions


class Params(stage.Params, DatasetOptions):
    seed: stage.Seed
    model: ModelOptions


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    from tasks.rlhf import base_model, dataset, models, train_on_dataset
    from tasks.rlhf.logprobs import reply_nll

    models.seed_everything(params.seed)
    tokenizer = models.load_tokenizer(data / "tokenizer")
    model = models.to_train(base_model.load_base(params.model, tokenizer, params.seed), params.model)
    examples = dataset.read_examples(data / "prepared/demonstrations")

    model.train()
    with tracker.phase("train"):
        train_on_dataset.train_on_dataset(
            model, examples, reply_nll(model), lambda row: len(row.reply_ids), params, params.seed, tracker
        )
    models.save(model, tokenizer, data / "models/sft")
    losses = [row["loss"] for _, row in sorted(tracker.curve.items())]
    return {
        "num_examples": len(examples),
        "num_reply_tokens": sum(len(e.reply_ids) for e in examples),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "first_loss": losses[0],
        "final_loss": losses[-1],
    }


STAGE = stage.Stage(
    "sft",
    Params,
    run,
    reads=("contract.json", "tokenizer", "prepared/demonstrations"),
    writes=("models/sft",),
    trains=True,
)

if __name__ == "__main__":
    stage.main(STAGE)
