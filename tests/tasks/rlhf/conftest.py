import pytest
import torch

from tasks.rlhf.batch import Example


@pytest.fixture(scope="session")
def tiny_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # an untrained model is nearly uniform and would hide a misplaced index
    return model


@pytest.fixture
def examples():
    return [
        Example([5, 6, 7], [8, 9, 1]),
        Example([11], [12, 13, 14, 15, 1]),
        Example([21, 22, 23, 24, 25, 26], [27]),
    ]


@pytest.fixture
def small_reward_model():
    """A reward model of a few thousand weights."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tasks.rlhf.reward_model import RewardModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, num_labels=1, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return RewardModel(LlamaForSequenceClassification(config).eval())
