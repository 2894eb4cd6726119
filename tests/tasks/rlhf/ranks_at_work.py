"""Training runs that one process and several are to do alike: `python -m tests.tasks.rlhf.ranks_at_work <folder>`.

Each rank writes what it saw to `<folder>/<rank>.json`.
"""

import contextlib
import copy
import json
import os
import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tasks.rlhf import algorithms, experience, models, ranks, train_reward
from tasks.rlhf.batch import Example, Prompt
from tasks.rlhf.checkpoint import Checkpoints
from tasks.rlhf.logprobs import reply_nll, reply_sums, token_logprobs
from tasks.rlhf.options import DatasetOptions, LoraOptions
from tasks.rlhf.reward_model import score_examples
from tasks.rlhf.rollout import Reply
from tasks.rlhf.train_on_dataset import train_on_dataset
from tasks.rlhf.train_on_feedback import train_on_feedback
from tasks.rlhf.train_on_pairs import train_on_pairs
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.rlhf import tiny
from tests.tasks.rlhf.test_loops import Recorder, data, pairs
from tests.tasks.rlhf.test_train_on_rollouts import learner, likes_sevens, section
from tests.tasks.rlhf.test_train_reward import options, sevens

FIXED = {"lr": 1e-3, "num_epochs": 1, "batch_tokens": 128, "sft_weight": 0.1, "beta": 0.1}
# 5 prompts in 2 minibatches: neither divides by two processes.
FRESH = {"num_steps": 3, "prompts_per_step": 5, "kl_target": 1.0, "kl_horizon": 50, "held_out_every": 2}
RNG = np.random.default_rng(7)
PROMPTS = [Prompt([number + 4, *RNG.integers(4, 60, number % 4).tolist()], "x") for number in range(20)]


def fixed_replies(model, prompts, *, max_new_tokens, seed, eos_id, **_):
    """Replies that follow from the prompt and its turn alone, whoever draws them, with the model's log-probs."""
    examples, turns = [], {}
    for ids in prompts:
        turn = turns[tuple(ids)] = turns.get(tuple(ids), 0) + 1
        rng = np.random.default_rng([turn, *ids])
        examples.append(Example(ids, [*rng.integers(4, 10, rng.integers(1, max_new_tokens)).tolist(), eos_id]))
    with torch.no_grad():
        logprobs_N = token_logprobs(model.eval(), examples)
    pieces = logprobs_N.split([len(e.reply_ids) for e in examples])
    return [Reply(list(e.reply_ids), piece.tolist(), True) for e, piece in zip(examples, pieces, strict=True)]


held = set()  # numbers of weights that this process has held between two steps


def sft(**options):
    model, recorder = tiny.language_model(), Recorder()

    def look(rows):
        held.add(sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters()))

    settings = DatasetOptions(**{"num_epochs": 1, "lr": 1e-3, "batch_tokens": 64, **options})
    train_on_dataset(model, data(), reply_nll(model), lambda r: len(r.reply_ids), settings, 0, recorder, look)
    return recorder.rows, model


def reward():
    """With tie parameters beside the network, in one optimiser."""
    model, recorder = tiny.reward_model(), Recorder()
    settings = options(ties="davidson", num_epochs=1, weight_decay=0.1)
    rows = [*sevens(20), *sevens(4, label=0.5)]
    train_reward.train(model, model.network, rows, settings, 0, recorder)
    score_examples(model, [rows[0].a])
    return [*recorder.rows, {"loss": model.ties["parameters"]["choice"]}], model.network


def on_fixed(name):
    policy, recorder = tiny.language_model(), Recorder()
    reference = copy.deepcopy(policy)

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(reference, examples)

    algorithm = algorithms.load(name, FIXED)
    if algorithm.unpaired:
        from tasks.rlhf.feedback import from_pairs

        train_on_feedback(policy, partial(reply_sums, logprobs), from_pairs(pairs()), algorithm, 0, recorder)
    else:
        train_on_pairs(policy, partial(reply_sums, logprobs), pairs(), algorithm, 0, recorder)
    return recorder.rows, policy


def on_fresh(name):
    algorithm, run = learner(tiny.language_model(), likes_sevens, name, section(**FRESH))
    run, recorder = replace(run, sample=fixed_replies), Recorder()
    train_on_rollouts(run, PROMPTS, PROMPTS[:3], algorithm.options, 0, recorder)
    return recorder.rows, run.policy


RUNS = {
    "sft": sft,
    # Steps of one to three rows: some ranks have none.
    "sft, short steps": lambda: sft(batch_tokens=16, micro_batch_tokens=8),
    "reward": reward,
    "dpo": lambda: on_fixed("dpo"),
    "kto": lambda: on_fixed("kto"),
    "grpo": lambda: on_fresh("grpo"),
    "ppo": lambda: on_fresh("ppo"),
}
SHARDED = ("sft", "sft, short steps", "reward", "dpo")


def all_runs():
    """{run: (rows logged, weights)}"""
    found = {name: run() for name, run in RUNS.items()}
    return {name: (rows, weights(model)) for name, (rows, model) in found.items()}


def refusal(name):
    try:
        RUNS[name]()
    except ValueError as error:
        return str(error)


class Tokenizer:
    def save_pretrained(self, folder):
        (folder / "tokenizer_config.json").write_text("{}")


def sharded_runs(folder):
    """{run: (rows logged, weights)} of runs in which a rank holds a part of the model; its weights, saved."""
    held.clear()
    found = {name: RUNS[name]() for name in SHARDED}
    models.save(found["sft"][1], Tokenizer(), folder / "saved")
    return {name: (rows, weights(model)) for name, (rows, model) in found.items()}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Interrupted(Exception):  # noqa: N818
    pass


def resumed(folder):
    """(weights of a whole run, of one that was interrupted and went on, the step it went on after, seeds of steps).

    Adapters with dropout: their masks differ from rank to rank.
    """
    seeds = []

    def noted(model):
        loss = reply_nll(model)

        def note(rows):
            seeds.append(torch.initial_seed())
            return loss(rows)

        return note

    def run(name, at=0):
        model = models.add_lora(tiny.language_model(), LoraOptions(rank=2, alpha=4, dropout=0.5))
        model.train()
        recorder = Recorder()
        recorder.checkpoints = Checkpoints(folder / name, lambda: "k")
        recorder.state_dict, recorder.load_state_dict = lambda: {}, lambda state: None
        log = recorder.log

        def logged(step, total, **metrics):
            if step == at:
                raise Interrupted
            log(step, total, **metrics)

        recorder.log = logged
        options = DatasetOptions(num_epochs=1, lr=1e-2, batch_tokens=128)
        train_on_dataset(model, data(), noted(model), lambda r: len(r.reply_ids), options, 0, recorder)
        return weights(model), recorder.checkpoints.resumed_from

    whole, _ = run("whole")
    seeds_of_steps = list(seeds)
    with contextlib.suppress(Interrupted):
        run("kept", at=3)
    again, step = run("kept")
    return whole, again, step, seeds_of_steps


def draws():
    """Tokens of a rollout, as its ranks drew them with their own seeds."""
    algorithm, run = learner(tiny.language_model(), likes_sevens, "grpo", section(**FRESH))
    rollout, _ = experience.collect(run, PROMPTS[:1] * 4, algorithm.options, 3)
    return [list(e.reply_ids) for e in rollout.examples]


def main(folder):
    torch.set_num_threads(1)
    group = ranks.join(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), folder / "meeting")
    runs = all_runs()
    kept = [resumed(folder / "kept")]
    drawn = draws()
    ranks.join(group.index, group.count, folder / "meeting", sharded=True)
    sharded = sharded_runs(folder)
    kept.append(resumed(folder / "kept in shards"))
    found = {
        "curves": {name: rows for name, (rows, _) in runs.items()},
        "weights": {name: zlib.crc32(value.numpy().tobytes()) for name, (_, value) in runs.items()},
        "resumed": [
            [torch.equal(whole, again), step, zlib.crc32(whole.numpy().tobytes())] for whole, again, step, _ in kept
        ],
        "seeds": kept[0][3],
        "draws": drawn,
        "sharded": {name: rows for name, (rows, _) in sharded.items()},
        "sharded_weights": {name: zlib.crc32(value.numpy().tobytes()) for name, (_, value) in sharded.items()},
        "held": sorted(held),
        "refused": [refusal(name) for name in ("kto", "grpo")],
        "group": [group.index, group.count],
    }
    (folder / f"{group.index}.json").write_text(json.dumps(found))
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
