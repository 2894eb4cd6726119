"""QLoRA: what cannot be had is refused by name, and adapters end in whole weights."""

import importlib.util
import re

import pytest
import torch

from tasks.rlhf import base_model, models
from tasks.rlhf.options import LoraOptions, ModelOptions
from tasks.rlhf.quantize import merged, over_whole_weights, quantized
from tasks.rlhf.reward_model import new_reward_model

NF4 = LoraOptions(rank=2, alpha=4, quantize="nf4")


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, alpha=4)])
def test_without_it_nothing_is_asked_for(lora):
    assert quantized(lora, "float32") == {}


@pytest.mark.parametrize(
    ("cuda", "package", "lacks"),
    [
        (False, False, "a CUDA GPU and the package bitsandbytes (`pip install 'plumbline[quantize]'`)"),
        (True, False, "the package bitsandbytes (`pip install 'plumbline[quantize]'`)"),
        (False, True, "a CUDA GPU"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, folder, cuda, package, lacks):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (object() if package else None) if name == "bitsandbytes" else found(name),
    )
    message = f"params.yaml: model.lora.quantize = 'nf4': this machine lacks {lacks}; set it to null"
    for load in (models.load_policy, lambda *args: new_reward_model(args[0], args[1], 0, lora=args[2])):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(folder, "float32", NF4)


def test_a_model_from_scratch_has_nothing_to_quantize():
    options = ModelOptions(
        base="scratch", revision=None, dtype="float32", max_length=64, hidden_size=32, num_layers=2, num_heads=4,
        intermediate_size=64, vocab_size=300, lora=NF4,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"model\.lora\.quantize = 'nf4': model\.base = scratch has no weights"):
        base_model.load_base(options, None, 0)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_adapters_go_over_the_weights_that_were_loaded(folder, task):
    """On whole weights both ways of merging are the same; a reward model brings its head along."""
    base = models.load_policy(folder) if task == "CAUSAL_LM" else new_reward_model(folder, "float32", 0).network
    adapted = models.add_lora(base, LoraOptions(rank=2, alpha=4), task)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    over = over_whole_weights(adapted).merge_and_unload()
    expected = merged(adapted).state_dict()
    assert over.state_dict().keys() == expected.keys()
    for name, value in over.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert not hasattr(over.config, "quantization_config")
