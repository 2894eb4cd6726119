"""The loop over a fixed dataset: SFT, reward models and the algorithms on preference pairs."""

import math
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch

from tasks.rlhf import ranks
from tasks.rlhf.batch import LossOutput, Tracker
from tasks.rlhf.batching import Groups, Row, by_prompt, distinct, runs
from tasks.rlhf.master_weights import GradientSums, MasterAdamW
from tasks.rlhf.options import DatasetOptions, OptimizerOptions

R = TypeVar("R", bound=Row)


def train_on_dataset(
    model: Any,
    rows: Sequence[R],
    loss: Callable[[list[R]], LossOutput],
    weight: Callable[[R], float],
    options: DatasetOptions,
    seed: int,
    tracker: Tracker,
    before_step: Callable[[list[R]], None] | None = None,
    is_counted: Callable[[R], bool] = lambda row: True,
) -> None:
    """Minimise the weighted mean of `loss` over `rows`, in place.

    Per optimiser step the mean is over the whole step (sum of weighted losses / sum of weights), so micro-batches
    change nothing, nor do several processes (ranks.py): each computes `loss` on its share of a step's rows.
    `before_step` sees all of them before `loss` sees any. Rows that are not counted are learned from, but take no part
    in the metrics that are logged, other than the loss; those of weight 0 take part in nothing. The order of rows is
    drawn from `seed`, apart from the model's own draws; a few on one prompt stand side by side in one step
    (batching.py). Checkpoints fall between two optimiser steps; an interrupted run ends with the weights, figures and
    draws of one that was not. ValueError where no row has a weight.
    """
    group = ranks.current()
    if group.sharded:
        from tasks.rlhf import sharding

        outline = sharding.Outline(model)
        loss = sharding.shard(model, loss)
    generator = np.random.default_rng(seed)
    if rows and not (rows := [row for row in rows if weight(row) > 0]):  # a step of nothing else has no mean
        raise ValueError("every row to learn from has a weight of 0; check confidence and weights of data/raw")
    groups = Groups(rows)
    epochs = [groups.epoch(options.batch_tokens, generator) for _ in range(options.num_epochs)]
    steps = [batch for epoch in epochs for batch in epoch]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = new_optimizer(parameters, options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(len(steps), options.warmup_share))
    log_every = max(1, len(steps) // 200)
    progress = Progress()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "progress": progress, "tracker": tracker}
    tracker.checkpoints.restore(parts)
    window = progress.window
    for step, batch in enumerate(steps[progress.step :], progress.step + 1):
        chosen = [rows[i] for i in batch]
        if before_step is not None:
            before_step(chosen)
        group.reseed(seed, step)
        gradients = GradientSums([] if group.sharded else parameters)
        sums = group.add(_accumulate(chosen, loss, weight, is_counted, options.micro_batch_tokens, group, gradients))
        group.add_gradients(parameters)
        total_weight, counted_weight = sums.pop("weight"), sums.pop("counted")
        metrics = {key: value / (total_weight if key == "loss" else counted_weight) for key, value in sums.items()}
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(total_weight)
        norm = ranks.whole(torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        window.append({**metrics, "grad_norm": float(norm), "lr": float(scheduler.get_last_lr()[0])})
        scheduler.step()
        check_finite(window[-1], step)
        progress.advance(sum(e.length for e in distinct(chain.from_iterable(row.examples for row in chosen))[0]))
        if step % log_every == 0 or step == len(steps):
            tracker.log(step, len(steps), **{key: float(np.mean([w[key] for w in window])) for key in window[0]})
            tracker.measure(step, len(steps), tokens_per_second=progress.tokens_per_second, **memory())
            window.clear()
        tracker.checkpoints.save(step, parts)
    if group.sharded:
        outline.fill(model)


class Progress:
    """How far a loop is: steps done, tokens trained on, seconds spent, and what is not yet logged."""

    def __init__(self) -> None:
        self.step, self.tokens = 0, 0
        self.window: list[dict[str, float]] = []
        self._started = time.monotonic()

    def advance(self, tokens: int) -> None:
        self.step += 1
        self.tokens += tokens

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (time.monotonic() - self._started)

    def state_dict(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        return {"step": self.step, "tokens": self.tokens, "window": self.window, "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.tokens, self.window = state["step"], state["tokens"], state["window"]
        self._started = time.monotonic() - state["seconds"]


def _accumulate(
    rows: list[R],
    loss: Callable[[list[R]], LossOutput],
    weight: Callable[[R], float],
    is_counted: Callable[[R], bool],
    micro_tokens: int,
    group: ranks.Ranks,
    gradients: GradientSums,
) -> dict[str, float]:
    """Backward pass over micro-batches of this process's rows; weighted sums of loss and metrics, and the weight.

    Metrics are sums over the rows that are counted, where any is, and `counted` is the weight of those. Rows on one
    prompt stay in one process. Of a model whose weights are sharded all processes make as many passes: where rows run
    out, one is repeated and weighs nothing.
    """
    totals: dict[str, float] = {"weight": 0.0, "counted": 0.0, "loss": 0.0}
    any_counted = any(map(is_counted, rows))
    own = list(chain.from_iterable(group.share(by_prompt(rows))))
    passes = [[(row, weight(row)) for row in run] for run in runs(own, micro_tokens)]
    if group.sharded:
        passes += [[(rows[0], 0.0)]] * (max(group.gather(len(passes))) - len(passes))
    for some in passes:
        micro = [row for row, _ in some]
        output = loss(micro)
        weights_B = torch.tensor([w for _, w in some], device=output.loss_B.device)
        weighted = (output.loss_B * weights_B).sum()
        gradients.take()
        weighted.backward()
        totals["weight"] += float(weights_B.sum())
        totals["loss"] += float(weighted.detach())
        counted_B = weights_B * torch.tensor([is_counted(row) or not any_counted for row in micro]).to(weights_B)
        totals["counted"] += float(counted_B.sum())
        for key, value_B in output.metrics.items():
            totals[key] = totals.get(key, 0.0) + float((value_B * counted_B).sum())
    gradients.give()
    return totals


def new_optimizer(parameters: list[Any], options: OptimizerOptions, lr: float | None = None) -> torch.optim.Optimizer:
    """AdamW whose decay spares biases and norms, in float32 whatever the weights are; `lr` overrides the options'."""
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    whole = all(p.dtype.itemsize >= 4 for p in parameters)
    kind = partial(torch.optim.AdamW, fused=True) if whole else MasterAdamW
    return kind([g for g in groups if g["params"]], lr=lr or options.lr, betas=(0.9, options.beta2), eps=options.eps)


def warmup_cosine(num_steps: int, warmup_share: float) -> Callable[[int], float]:
    warmup = max(1, math.ceil(num_steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return factor


def check_finite(metrics: dict[str, float], step: int) -> None:
    for key, rate in (("loss", "lr"), ("grad_norm", "lr"), ("value_loss", "critic_lr")):
        if not math.isfinite(metrics.get(key, 0.0)):
            raise ValueError(
                f"step {step}: {key} is {metrics[key]}; lower the learning rate ({rate}) or check the data"
            )


def memory() -> dict[str, float]:
    """Peak memory of this process so far, in MB."""
    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
