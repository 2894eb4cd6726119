"""Whether a model can go through all stages, asked before the first of them trains it.

Log-probs are computed by logprobs.py, samples are drawn by the loop of rollout.py, and a reward model is read at one
head: a model that any of these does not fit would fail, or learn from wrong numbers, hours later.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import classifiers
from tasks.rlhf.logprobs import logits, reply_logprobs, unwrapped
from tasks.rlhf.rollout import sample


def check_type(config: Any, name: str) -> None:
    """ValueError for what is no causal language model of transformers, before its weights are loaded."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refusal(config, name, "is no language model that replies token by token")


def check(model: Any, name: str) -> None:
    """ValueError where log-probs, samples or a reward model of this model would be wrong. `name`: model.base."""
    model.eval()
    _check_logits(model, name)
    _check_causality(model, name)
    _check_samples(model, name)
    if not hasattr(classifiers.outline(model.config, model.dtype), "score"):
        raise _refusal(model.config, name, "cannot become a reward model: transformers puts no plain head on it")


@torch.no_grad()
def _check_logits(model: Any, name: str) -> None:
    """Training and sampling compute logits themselves (logprobs.logits): they have to be the model's own."""
    ids_1L = _some_ids(model)
    own_LV = model(input_ids=ids_1L, use_cache=False).logits[0].float().log_softmax(-1)
    hidden_LD = unwrapped(model).base_model(input_ids=ids_1L, use_cache=False).last_hidden_state[0]
    gap = float((own_LV - logits(model, hidden_LD).log_softmax(-1)).abs().max())
    if not gap < _rounding(model):
        what = f"does something unknown to what its head gives (log-probs differ by {gap:.3g} nats)"
        raise _refusal(model.config, name, what)


@torch.no_grad()
def _check_causality(model: Any, name: str) -> None:
    """A model that sees what it is to say next learns to copy it."""
    ids_1L = _some_ids(model)
    other_1L = ids_1L.clone()
    other_1L[:, -1] = ids_1L[:, 0]
    first_LD, second_LD = (
        unwrapped(model).base_model(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in (ids_1L, other_1L)
    )
    if not torch.allclose(first_LD[:-1].float(), second_LD[:-1].float(), rtol=0, atol=_rounding(model)):
        raise _refusal(model.config, name, "sees tokens that come later")


def _check_samples(model: Any, name: str) -> None:
    """What is drawn, with a cache, padding on the left and finished rows left out, is what is measured."""
    size = model.config.get_text_config().vocab_size
    prompts = [[token % size for token in prompt] for prompt in ((5,), (6, 7, 8, 9), (6, 7, 8, 9), (10, 11))]

    def drawn(eos_id: int) -> list[Any]:
        pad_id = model.config.pad_token_id
        return sample(model, prompts, max_new_tokens=4, temperature=1.0, seed=0, eos_id=eos_id, pad_id=pad_id)

    try:
        replies = drawn(drawn(-1)[0].ids[0])  # the first reply ends at once
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        what = f"remembers what it has read in a way that sampling does not know ({reason})"
        raise _refusal(model.config, name, what) from error
    measured = reply_logprobs(model, prompts, [reply.ids for reply in replies])
    gap = float(
        np.mean([np.abs(np.subtract(reply.logprobs, own)).mean() for reply, own in zip(replies, measured, strict=True)])
    )
    if not gap < _rounding(model):
        raise _refusal(model.config, name, f"samples otherwise than it is trained (log-probs differ by {gap:.3g} nats)")


def _some_ids(model: Any) -> Tensor:
    size: int = model.config.get_text_config().vocab_size
    return torch.arange(8, device=model.device)[None] % size


def _rounding(model: Any) -> float:
    return 1e-3 if model.dtype == torch.float32 else 0.25


def _refusal(config: Any, name: str, what: str) -> ValueError:
    what = f"a model of type {config.model_type} {what}"
    return ValueError(f"params.yaml: model.base = {name!r}: {what}; choose a model of another type")
