"""Details that naive code gets wrong and that no other test holds."""

import pytest
import torch

from tasks.rlhf import reward_model
from tasks.rlhf.batch import Example
from tasks.rlhf.options import OptimizerOptions
from tasks.rlhf.train_on_dataset import new_optimizer


def test_a_reward_model_learns_and_scores_without_dropout(tmp_path):
    """GPT-2 brings 10 % of it; with it two equal replies would score apart."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, pad_token_id=0, eos_token_id=1, bos_token_id=None
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "sft")
    model = reward_model.new_reward_model(tmp_path / "sft", "float32", 0)
    model.network.train()  # as the stage does
    same = Example([5, 6], [7, 8, 1])
    a, b = model.forward([same, same]).tolist()
    assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eps_stands_beside_the_corrected_deviation(dtype):
    """Adam's first step by hand: lr g / (|g| + eps); with eps = |g| half of lr, whatever beta2 is."""
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    optimizer = new_optimizer([p], OptimizerOptions(lr=1.0, eps=2.0**-10))
    p.grad = torch.full((2, 2), 2.0**-10, dtype=dtype)
    optimizer.step()
    assert p.flatten().tolist() == pytest.approx([-0.5] * 4, rel=1e-3)
    defaults = new_optimizer([p], OptimizerOptions(lr=1.0)).defaults
    assert (defaults["eps"], defaults["betas"]) == (1e-8, (0.9, 0.98))
