"""A body's last layer, computed where its result is read: at the other places it is asked for keys and values alone.

Log-probs are read at the tokens of replies, a reward model's score at one of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import attention, compiled, recompute

# Bodies known to take a mask of [rows, 1, length, length] for every layer, and positions that start again; a layer of
# theirs is h + attention(norm(h)), then h + mlp(norm(h)), and its attention has projections and rotations of one form.
KNOWN_BODIES = {"llama", "qwen2", "qwen3"}
FEW = 0.25  # of a row's places: where no more are read, queries of these alone pay for being picked out


@contextmanager
def read_at(places_N: np.ndarray, on_device_N: Tensor, shape: tuple[int, ...], body: Any) -> Iterator[bool]:
    """Have the last layer give [1, N, D]: its output at these places of rows of this shape, numbered end to end.

    So the MLP, two thirds of a layer, is computed where its result is read, and queries, and what they attend to, where
    these are few. Yields whether the body can do so.
    """
    layer = body.layers[-1] if body.config.model_type in KNOWN_BODIES else None
    replaced = vars(layer).get("forward") if layer is not None else None
    known = replaced is None or recompute.is_recomputed(layer) or compiled.is_compiled(layer)
    if layer is None or not known:
        yield False
        return
    read: Callable[..., Tensor] = _read
    where: tuple[Tensor, ...] = (on_device_N,)
    if body.config._attn_implementation in ("sdpa", attention.NAME):
        columns_RQ, asked_N = _asked(places_N, shape)
        if columns_RQ.shape[1] <= FEW * shape[1]:
            read, where = _ask, tuple(torch.from_numpy(each).to(on_device_N.device) for each in (columns_RQ, asked_N))
    if compiled.is_compiled(layer):
        read = compiled.compiled(read)
    forward = partial(read, layer, *where)
    layer.forward = partial(recompute.recomputed, forward) if recompute.is_recomputed(layer) else forward
    try:
        yield True
    finally:
        del layer.forward
        if replaced is not None:
            layer.forward = replaced


def _read(layer: Any, places_N: Tensor, hidden_RLD: Tensor, **kwargs: Any) -> Tensor:
    """[1, N, D]: what a layer gives at these places."""
    attended_RLD, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_RLD), **kwargs)
    return _after_attention(layer, (hidden_RLD + attended_RLD).flatten(0, 1).index_select(0, places_N))


def _asked(places_N: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The columns that are read of each row, int64 [R, Q], filled up with 0; where each place is among these, [N]."""
    row_N, column_N = np.divmod(places_N, shape[1])
    counts_R = np.bincount(row_N, minlength=shape[0])
    slot_N = np.empty_like(row_N)
    by_row_N = np.argsort(row_N, kind="stable")
    slot_N[by_row_N] = np.arange(len(row_N)) - np.repeat(np.cumsum(counts_R) - counts_R, counts_R)
    columns_RQ = np.zeros((shape[0], counts_R.max()), dtype=np.int64)
    columns_RQ[row_N, slot_N] = column_N
    return columns_RQ, row_N * columns_RQ.shape[1] + slot_N


def _ask(
    layer: Any,
    columns_RQ: Tensor,
    asked_N: Tensor,
    hidden_RLD: Tensor,
    *,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """[1, N, D]: as `_read`, with queries at these columns alone."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = layer.self_attn
    asked_RQ1 = columns_RQ[..., None]
    normed_RLD = layer.input_layernorm(hidden_RLD)
    cos_RLH, sin_RLH = position_embeddings

    def heads(name: str, states: Tensor) -> Tensor:
        """[R, H, places, head_dim]"""
        found: Tensor = getattr(module, f"{name}_proj")(states).unflatten(-1, (-1, module.head_dim))
        if hasattr(module, f"{name}_norm"):  # Qwen 3
            found = getattr(module, f"{name}_norm")(found)
        return found.transpose(1, 2)

    query = _rotated(
        heads("q", normed_RLD.take_along_dim(asked_RQ1, 1)),
        cos_RLH.take_along_dim(asked_RQ1, 1),
        sin_RLH.take_along_dim(asked_RQ1, 1),
    )
    key = _rotated(heads("k", normed_RLD), cos_RLH, sin_RLH)
    if attention_mask is None:
        seen = asked_RQ1 >= torch.arange(hidden_RLD.shape[1], device=hidden_RLD.device)
        seen_R1QL = seen[:, None]
    else:
        seen_R1QL = attention_mask.take_along_dim(asked_RQ1[:, None], 2)
    attended_RQHD, _ = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation](
        module,
        query,
        key,
        heads("v", normed_RLD),
        seen_R1QL,
        dropout=module.attention_dropout if module.training else 0.0,
        scaling=module.scaling,
    )
    attended_RQD = module.o_proj(attended_RQHD.flatten(2))
    hidden_RQD = hidden_RLD.take_along_dim(asked_RQ1, 1) + attended_RQD
    return _after_attention(layer, hidden_RQD.flatten(0, 1).index_select(0, asked_N))


def _rotated(states_RHLD: Tensor, cos_RLD: Tensor, sin_RLD: Tensor) -> Tensor:
    from transformers.models.llama.modeling_llama import rotate_half

    rotated_RHLD: Tensor = states_RHLD * cos_RLD[:, None] + rotate_half(states_RHLD) * sin_RLD[:, None]
    return rotated_RHLD


def _after_attention(layer: Any, hidden_ND: Tensor) -> Tensor:
    out_ND: Tensor = hidden_ND + layer.mlp(layer.post_attention_layernorm(hidden_ND))
    return out_ND[None]
