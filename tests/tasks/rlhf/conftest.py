import pytest
import torch

from tasks.rlhf.batch import Example
from tests.tasks.rlhf import tiny


@pytest.fixture(scope="session")
def tiny_model():
    model = tiny.language_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # an untrained model is nearly uniform and would hide a misplaced index
    return model


@pytest.fixture(scope="session")
def small_model():
    """Nearly uniform over 32 tokens, so that a reward for one of them has room to grow."""
    return tiny.language_model(
        vocab_size=32, num_hidden_layers=1, max_position_embeddings=32, tie_word_embeddings=False
    )


@pytest.fixture
def examples():
    return [
        Example([5, 6, 7], [8, 9, 1]),
        Example([11], [12, 13, 14, 15, 1]),
        Example([21, 22, 23, 24, 25, 26], [27]),
    ]


@pytest.fixture
def small_reward_model():
    return tiny.reward_model()
