"""Models of a few thousand weights, drawn from a fixed seed."""

from typing import Any

import torch

from tasks.rlhf.reward_model import RewardModel

SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}


def language_model(kind: str = "Llama", **changes: Any) -> Any:
    """Nearly uniform over its tokens. Two layers of 32 over 64 tokens, but for what is changed."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **SPECIAL, **changes})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def reward_model() -> RewardModel:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=1,
        **SPECIAL,
    )
    return RewardModel(LlamaForSequenceClassification(config).eval())
