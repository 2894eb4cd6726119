"""Rows for a model's body: replies to one prompt stand behind it in one row, so that it is computed once.

    prompt | first reply | second reply ...

Each reply sees the prompt and itself, at the positions it would have alone: a row gives what its replies would give in
rows of their own, but for rounding. Comparisons, and groups of replies to a prompt, hold a prompt two times and more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import attention, last_layer
from tasks.rlhf.batch import Example, pad_right
from tasks.rlhf.batching import packed

WORTH = 0.85  # of the plain rows' places, padding counted; a mask costs some of what is saved


@dataclass(frozen=True)
class Rows:
    """Places are numbered over all rows, end to end: row * L + column."""

    ids_RL: Tensor  # int64, padded right
    starts_B: np.ndarray  # the place of each reply's first token
    before_B: np.ndarray  # the place that predicts it: the prompt's last token
    sizes_B: np.ndarray  # tokens of each reply
    positions_RL: Tensor | None = None  # None: 0, 1, 2 ...
    seen_R1LL: Tensor | None = None  # which places (last axis) a place attends to; None: all before it

    def reply_places(self) -> np.ndarray:
        """Of all reply tokens, reply by reply, int64 [N]."""
        within = np.arange(self.sizes_B.sum()) - np.repeat(np.cumsum(self.sizes_B) - self.sizes_B, self.sizes_B)
        return np.asarray(np.repeat(self.starts_B, self.sizes_B) + within)

    def predicting_places(self) -> np.ndarray:
        """Of what predicts each reply token, int64 [N]."""
        places = self.reply_places() - 1
        places[np.cumsum(self.sizes_B) - self.sizes_B] = self.before_B
        return places

    def end_places(self) -> np.ndarray:
        """Of each reply's last token, int64 [B]."""
        return np.asarray(self.starts_B + self.sizes_B - 1)


def rows_of(examples: Sequence[Example], config: Any) -> Rows:
    """The rows for a body of this configuration: packed where the model can and it is worth it."""
    if can_pack(config):
        groups = packed(examples)
        if len(groups) < len(examples):
            widths = [len(prompt) + sum(len(examples[i].reply_ids) for i in rows) for prompt, rows in groups]
            plain = len(examples) * max(example.length for example in examples)
            if len(widths) * max(widths) <= WORTH * plain:
                return _packed(examples, groups, config.pad_token_id)
    return plain_rows(examples, config.pad_token_id)


def can_pack(config: Any) -> bool:
    """Whether every layer of the body attends to all places, by an implementation that takes a mask."""
    return (
        config.model_type in last_layer.KNOWN_BODIES
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager", attention.NAME)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def plain_rows(examples: Sequence[Example], pad: int) -> Rows:
    """A row for each example. Padding stands on the right and attention is causal: no token can see it."""
    ids_RL = pad_right([[*e.prompt_ids, *e.reply_ids] for e in examples], pad)
    prompts_B = np.array([len(e.prompt_ids) for e in examples])
    starts_B = np.arange(len(examples)) * ids_RL.shape[1] + prompts_B
    return Rows(ids_RL, starts_B, starts_B - 1, np.array([len(e.reply_ids) for e in examples]))


def states(body: Any, rows: Rows, places_N: np.ndarray) -> Tensor:
    """The last hidden states at these places, int64: [N, D], on the body's device."""
    device = body.device
    extra: dict[str, Tensor] = {}
    if rows.positions_RL is not None and rows.seen_R1LL is not None:
        extra["position_ids"] = rows.positions_RL.to(device)
        seen = rows.seen_R1LL.to(device)
        if body.config._attn_implementation == "eager":  # adds its mask to the scores
            seen = torch.zeros(seen.shape, dtype=body.dtype, device=device).masked_fill(
                ~seen, torch.finfo(body.dtype).min
            )
        extra["attention_mask"] = seen
    on_device_N = torch.from_numpy(places_N).to(device)
    with last_layer.read_at(places_N, on_device_N, rows.ids_RL.shape, body) as is_read:
        hidden: Tensor = body(input_ids=rows.ids_RL.to(device), use_cache=False, **extra).last_hidden_state
    hidden_PD = hidden.flatten(0, 1)
    return hidden_PD if is_read else hidden_PD.index_select(0, on_device_N)


def _packed(examples: Sequence[Example], groups: list[tuple[tuple[int, ...], list[int]]], pad: int) -> Rows:
    width = max(len(prompt) + sum(len(examples[i].reply_ids) for i in members) for prompt, members in groups)
    shape = (len(groups), width)
    ids, positions = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    owner = np.full(shape, -1, dtype=np.int64)  # 0: the prompt; k: the k-th reply; -1: padding, which sees itself
    starts_B, before_B = np.zeros(len(examples), dtype=np.int64), np.zeros(len(examples), dtype=np.int64)
    sizes_B = np.array([len(example.reply_ids) for example in examples])
    for row, (prompt, members) in enumerate(groups):
        end = len(prompt)
        ids[row, :end], positions[row, :end], owner[row, :end] = prompt, np.arange(end), 0
        for number, member in enumerate(members, 1):
            start, size = end, sizes_B[member]
            end = start + size
            ids[row, start:end] = examples[member].reply_ids
            positions[row, start:end] = len(prompt) + np.arange(size)
            owner[row, start:end] = number
            starts_B[member], before_B[member] = row * width + start, row * width + len(prompt) - 1
    owner_RL = torch.from_numpy(owner)
    seen_RLL = (owner_RL[:, None] == 0) | (owner_RL[:, None] == owner_RL[:, :, None])
    seen_RLL &= torch.ones(width, width, dtype=torch.bool).tril()
    ids_RL, positions_RL = torch.from_numpy(ids), torch.from_numpy(positions)
    return Rows(ids_RL, starts_B, before_B, sizes_B, positions_RL, seen_RLL[:, None])
