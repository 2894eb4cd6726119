"""Sampling replies: KV-cached, left-padded, prompts sorted by length and read once for all their replies, finished
rows dropped.

Replies are drawn from softmax(logits / temperature) without top-k or top-p, so that their log-probs are those
that `logprobs.token_logprobs` measures. Token in, token out: nothing is decoded and tokenised again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import attention, packing
from tasks.rlhf.logprobs import logits, unwrapped
from tasks.rlhf.sampling_batch import sampled_together


@dataclass(frozen=True)
class Reply:
    ids: list[int]  # with EOS where it finished
    logprobs: list[float]  # at the sampling temperature, in nats
    finished: bool
    own: list[bool] | None = None  # True on tokens that the policy drew; None: on all of them
    drawn_logprobs: list[float] | None = None  # of another engine, where one drew; `logprobs` are then the policy's
    trace: dict[str, Any] | None = field(default=None, compare=False)  # of its calls, where it could (tool_traces.py)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    eos_id: int,
    pad_id: int,
    batch_size: int | None = None,
) -> list[Reply]:
    """One reply per prompt, in the order given. Temperature 0 is greedy. Batches are as large as suits the model."""
    model.eval()
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed)
    batch_size = batch_size or _together(model, max(map(len, prompts), default=0) + max_new_tokens)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    replies: list[Reply | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = [prompts[i] for i in rows]
        drawn = _sample_batch(model, batch, max_new_tokens, temperature, generator, eos_id, pad_id)
        for i, reply in zip(rows, drawn, strict=True):
            replies[i] = reply
    return [reply for reply in replies if reply is not None]


def _together(model: Any, length: int) -> int:
    """Sequences of that whole length in a batch."""
    network = unwrapped(model)
    config = network.config.get_text_config()
    each = (
        config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config] * config.num_hidden_layers
    )
    return sampled_together(sum(map(_cached, each)), config.vocab_size, length, network.dtype.itemsize)


def _cached(layer: Any) -> int:
    """Numbers that a layer of this configuration keeps of a token."""
    heads = layer.num_attention_heads
    kv_heads: int = getattr(layer, "num_key_value_heads", None) or heads
    width: int = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    return 2 * kv_heads * width


def _sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    eos_id: int,
    pad_id: int,
) -> list[Reply]:
    from transformers import DynamicCache

    device = generator.device
    distinct = {tuple(prompt): place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    ids_BL, mask_BL = (x_BL.to(device) for x_BL in _padded_left(list(distinct), pad_id))
    padded = not bool(mask_BL.all())
    positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
    tokens = torch.full((len(prompts), max_new_tokens), -1, dtype=torch.int64)
    logprobs = torch.zeros((len(prompts), max_new_tokens))
    alive_B = torch.arange(len(prompts), device=device)
    body = unwrapped(model).base_model
    cache = DynamicCache(config=model.config)
    prompt_B = [distinct[tuple(prompt)] for prompt in prompts]
    extra: dict[str, Any] = {}
    for step in range(max_new_tokens):
        hidden = body(
            input_ids=ids_BL,
            attention_mask=mask_BL if padded else None,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).last_hidden_state[:, -1]
        if step == 0:
            place_B = torch.tensor(prompt_B, device=device)
            if body.config._attn_implementation == attention.NAME and packing.can_pack(body.config):
                extra, padded = {"prompts": attention.Prompts.of(cache, mask_BL, prompt_B)}, False
            elif len(distinct) < len(prompts):
                cache.reorder_cache(place_B)
            hidden, mask_BL, positions_BL = hidden[place_B], mask_BL[place_B], positions_BL[place_B]
        drawn_B, logps_B = _draw(logits(model, hidden), temperature, generator)
        tokens[alive_B.cpu(), step] = drawn_B.cpu()
        logprobs[alive_B.cpu(), step] = logps_B.cpu()
        keep = (drawn_B != eos_id).nonzero().squeeze(1)
        if len(keep) == 0 or step + 1 == max_new_tokens:
            break
        if len(keep) < len(drawn_B):
            cache.reorder_cache(keep)  # also known to layers that keep a state instead of keys and values
            if extra:
                extra["prompts"].keep(keep)
            alive_B, mask_BL, positions_BL, drawn_B = alive_B[keep], mask_BL[keep], positions_BL[keep], drawn_B[keep]
        ids_BL = drawn_B[:, None]
        positions_BL = positions_BL[:, -1:] + 1
        mask_BL = torch.nn.functional.pad(mask_BL, (0, 1), value=1)
    return [_reply(row, logps, eos_id) for row, logps in zip(tokens.tolist(), logprobs.tolist(), strict=True)]


def _padded_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and a mask that is 1 on them, int64 [B, longest]."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _draw(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if temperature == 0:
        logps_BV = torch.log_softmax(logits_BV, -1)
        drawn_B = logits_BV.argmax(-1)
    else:
        logps_BV = torch.log_softmax(logits_BV / temperature, -1)
        drawn_B = _multinomial(logps_BV.exp(), generator)
    return drawn_B, logps_BV.gather(1, drawn_B[:, None]).squeeze(1)


def _multinomial(probs_BV: Tensor, generator: torch.Generator) -> Tensor:
    """A token per row. On a CPU by the inverse of the distribution function: torch draws V numbers a row, a fifth of
    the time of sampling. On a GPU that costs nothing, and a cumulative sum would not be deterministic.
    """
    if probs_BV.device.type != "cpu":
        return torch.multinomial(probs_BV, 1, generator=generator).squeeze(1)
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    at_B1 = torch.rand(len(probs_BV), 1, dtype=torch.float64, generator=generator) * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, at_B1, right=True).squeeze(1).clamp(max=probs_BV.shape[1] - 1)


def _reply(tokens: list[int], logprobs: list[float], eos_id: int) -> Reply:
    length = tokens.index(-1) if -1 in tokens else len(tokens)
    ids = tokens[:length]
    return Reply(ids, logprobs[:length], finished=bool(ids) and ids[-1] == eos_id)
