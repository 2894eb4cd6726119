"""Attention on a CPU: always in float32, and prompts read once for all replies that are being drawn.

For bfloat16 torch's kernel takes twice as long there, forward and backward, as the one for float32 and conversions,
and rounds more. A single query spends its time on reading keys, so replies to one prompt share the prompt's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAME = "in_float32"


def use(model: Any) -> None:
    """Have this transformers model attend by `forward`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


@dataclass
class Prompts:
    """Keys and values of distinct prompts, which all replies to a prompt read together."""

    keys: list[Tensor]  # of each layer, [P, G, L, D]: prompts, heads, tokens
    values: list[Tensor]
    added_P1L: Tensor  # to scores: 0 on a prompt's tokens, the lowest number on padding
    slot_B: Tensor  # int64: where a row's query stands among P * `replies` places, those of one prompt side by side
    replies: int  # to a prompt, at most

    @classmethod
    def of(cls, cache: Any, mask_PL: Tensor, prompt_B: Sequence[int]) -> "Prompts":
        """The prompts that a cache holds, which is emptied; `prompt_B`: which of them each row replies to."""
        keys, values = ([_wide(getattr(layer, name)) for layer in cache.layers] for name in ("keys", "values"))
        cache.reset()
        seen: dict[int, int] = {}  # replies to a prompt so far
        places = []
        for prompt in prompt_B:
            places.append(seen.get(prompt, 0))
            seen[prompt] = places[-1] + 1
        replies = max(seen.values())
        slots = [prompt * replies + place for prompt, place in zip(prompt_B, places, strict=True)]
        added_PL = torch.zeros(mask_PL.shape, dtype=keys[0].dtype, device=mask_PL.device)
        added_PL.masked_fill_(mask_PL == 0, torch.finfo(added_PL.dtype).min)
        return cls(keys, values, added_PL[:, None], torch.tensor(slots, device=mask_PL.device), replies)

    def keep(self, rows: Tensor) -> None:
        """Of the rows these are left; prompts that nobody replies to are dropped once they are half of them."""
        self.slot_B = self.slot_B[rows]
        prompt_B = self.slot_B // self.replies
        left, renamed_B = prompt_B.unique(return_inverse=True)
        if len(left) <= len(self.added_P1L) // 2:
            self.keys, self.values = [k[left] for k in self.keys], [v[left] for v in self.values]
            self.added_P1L = self.added_P1L[left]
            self.slot_B = self.slot_B + (renamed_B - prompt_B) * self.replies

    def grouped(self, rows_BGXY: Tensor) -> Tensor:
        """[B, G, X, Y] -> [P * G, replies * X, Y]: what rows ask of their prompts; 0 where a row is finished."""
        groups, asked, width = rows_BGXY.shape[1:]
        slots = rows_BGXY.new_zeros(len(self.added_P1L) * self.replies, groups, asked, width)
        slots[self.slot_B] = rows_BGXY
        by_prompt = slots.view(-1, self.replies, groups, asked, width).transpose(1, 2)
        return by_prompt.reshape(-1, self.replies * asked, width)

    def by_row(self, found: Tensor, groups: int) -> Tensor:
        """[P * G, replies * X, Y] -> [B, G, X, Y]: `grouped` undone."""
        by_prompt = found.view(len(self.added_P1L), groups, self.replies, -1, found.shape[2])
        return by_prompt.transpose(1, 2).flatten(0, 1)[self.slot_B]


def forward(
    module: Any,
    query_BHQD: Tensor,
    key_BGKD: Tensor,
    value_BGKD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    prompts: Prompts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' `sdpa` gives, [B, Q, H, D], rounded to the number type of the queries.

    With `prompts`, keys and values are those of replies alone, and a row has one query, which sees all of them.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    given = _wide(query_BHQD), _wide(key_BGKD), _wide(value_BGKD)
    if prompts is not None:
        scale = 1 / math.sqrt(query_BHQD.shape[3]) if scaling is None else scaling
        return _behind(prompts, module.layer_idx, *given, scale).to(query_BHQD.dtype), None
    mask = None if attention_mask is None else _wide(attention_mask)
    kwargs = {key: _wide(value) if isinstance(value, Tensor) else value for key, value in kwargs.items()}
    return sdpa_attention_forward(module, *given, mask, scaling=scaling, **kwargs)[0].to(query_BHQD.dtype), None


def _wide(values: Tensor) -> Tensor:
    """bfloat16 and float16 as float32; all else as it is."""
    return values.float() if values.is_floating_point() and values.dtype.itemsize < 4 else values


def _behind(
    prompts: Prompts, layer: int, query_BH1D: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, scale: float
) -> Tensor:
    """[B, 1, H, D]: each row's one query attends to its prompt and to its own tokens."""
    rows, heads, _, width = query_BH1D.shape
    groups, size = key_BGTD.shape[1], prompts.added_P1L.shape[2]
    query_BGXD = query_BH1D.view(rows, groups, heads // groups, width) * scale
    added = prompts.added_P1L.repeat_interleave(groups, 0)
    to_prompts = torch.baddbmm(added, prompts.grouped(query_BGXD), prompts.keys[layer].flatten(0, 1).mT)
    scores_BGXL = torch.cat([prompts.by_row(to_prompts, groups), query_BGXD @ key_BGTD.mT], -1)
    shares_BGXL = torch.softmax(scores_BGXL, -1)
    of_prompts = torch.bmm(prompts.grouped(shares_BGXL[..., :size]), prompts.values[layer].flatten(0, 1))
    out_BGXD = prompts.by_row(of_prompts, groups) + shares_BGXL[..., size:] @ value_BGTD
    return out_BGXD.view(rows, 1, heads, width)
