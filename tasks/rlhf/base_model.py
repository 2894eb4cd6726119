"""The model that everything starts from: a new one, a folder, or one of the hub."""

from pathlib import Path
from typing import Any

import torch

from tasks.rlhf import suitable
from tasks.rlhf.models import max_tokens, placed
from tasks.rlhf.options import ModelOptions
from tasks.rlhf.quantize import quantized


def load_base(params: ModelOptions, tokenizer: Any, seed: int) -> Any:
    """The model everything starts from: a new tiny Llama, a local folder, or a pinned model of the hub."""
    if params.base == "scratch":
        if params.lora is not None and params.lora.quantize is not None:
            raise ValueError(
                f"params.yaml: model.lora.quantize = {params.lora.quantize!r}: model.base = scratch has no weights to "
                "load; set it to null, or give a model"
            )
        return placed(_scratch(params, tokenizer, seed))
    from transformers import AutoModelForCausalLM

    local = Path(params.base).is_dir()
    if not local and params.revision is None:
        raise ValueError(
            f"params.yaml: model.base = {params.base!r} is no local folder, and model.revision is null: "
            "give the path of an existing folder, or pin the hub model by its commit"
        )
    revision = None if local else params.revision
    suitable.check_type(config_of(params.base, params.revision), params.base)
    arguments = quantized(params.lora, params.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        params.base, revision=revision, dtype=getattr(torch, params.dtype), **arguments
    )
    if (room := max_tokens(model)) is not None and params.max_length > room:
        raise ValueError(
            f"params.yaml: model.max_length = {params.max_length}: {params.base} has room for {room} tokens "
            "(max_position_embeddings); lower it"
        )
    model.revision = revision  # to load the same weights again (quantize.py)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        if arguments:
            raise ValueError(
                "params.yaml: model.lora.quantize = 'nf4': the tokenizer has more tokens than the model, whose weights "
                "would have to be changed; set it to null"
            )
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = placed(_settle(model, tokenizer))
    suitable.check(model, params.base)
    return model


def config_of(base: str, revision: str | None) -> Any:
    """The transformers configuration of a folder, or of a hub name's revision. ValueError where it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base, revision=None if Path(base).is_dir() else revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"params.yaml: model.base = {base!r}: its config.json cannot be read: {reason}; check the folder or "
            "name (adapters alone have to be merged into their model first)"
        ) from None


def _scratch(params: ModelOptions, tokenizer: Any, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_layers,
        num_attention_heads=params.num_heads,
        max_position_embeddings=params.max_length,
        tie_word_embeddings=True,
        dtype=params.dtype,
    )
    return _settle(LlamaForCausalLM(config).to(getattr(torch, params.dtype)), tokenizer)


def _settle(model: Any, tokenizer: Any) -> Any:
    """Make model and tokenizer agree on the special tokens, and generation plain sampling."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError("data/tokenizer: pad and eos must be two tokens, or the policy never learns to stop")
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.bos_token_id = tokenizer.bos_token_id
    return model
