"""Sizes against the real models: parameters exactly, FLOPs as torch counts them, activations as autograd keeps them."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tasks.rlhf import model_size, packing
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import unwrapped
from tasks.rlhf.models import add_lora
from tasks.rlhf.options import LoraOptions

COMMON = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 2}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 16}),
    ("mistral", {"tie_word_embeddings": False, "num_key_value_heads": 2}),
    ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 2, "head_dim": 8}),
]


def build(kind, changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **COMMON | {"pad_token_id": 0, "eos_token_id": 1} | changes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config), model_size.from_config(config.to_dict())


@pytest.mark.parametrize(("kind", "changes"), CONFIGS)
def test_parameters_are_those_of_the_model(kind, changes):
    model, shape = build(kind, changes)
    assert shape.parameters == model.num_parameters()
    assert shape.body_parameters == model.base_model.num_parameters()
    adapted = add_lora(model, LoraOptions(rank=3, alpha=6))
    assert shape.lora_parameters(3) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_a_known_model_by_its_published_size():
    """Qwen2.5-0.5B: 0.49B parameters, 0.36B without the embedding (model card)."""
    shape = model_size.from_config({
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    })  # fmt: skip
    assert shape.parameters == 494_032_768
    assert shape.parameters - shape.vocab_size * shape.hidden_size == pytest.approx(0.36e9, rel=0.01)
    assert model_size.cache_bytes(shape, 1, 1, 2) == 24 * 2 * 2 * 64 * 2  # 12 kB a token


def test_another_kind_of_model_is_refused():
    with pytest.raises(ValueError, match=r"model_type 'gpt2' cannot be estimated; the estimate knows llama, mistral"):
        model_size.from_config({"model_type": "gpt2"})


@pytest.mark.parametrize("number", [0, 1])
def test_flops_are_those_that_torch_counts(number):
    """Plain attention computes the scores of all n^2 pairs of tokens; ours are the n (n + 1) / 2 that count."""
    model, shape = build(*CONFIGS[number])
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 300, (5, 12))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.base_model(input_ids=ids)
    unseen = 4 * shape.num_layers * shape.heads * shape.head_dim * 5 * 12 * (12 - 6.5)
    assert model_size.body_flops(shape, 5, 12) + unseen == forward.get_total_flops()
    with FlopCounterMode(display=False) as both:
        model.lm_head(model.base_model(input_ids=ids).last_hidden_state).sum().backward()
    head = model_size.head_flops(shape, 60)
    factor = 1 + model_size.backward_factor(shape, None)
    assert factor * (forward.get_total_flops() + head) == both.get_total_flops()


def test_flops_of_a_last_layer_that_is_read_at_some_places():
    model, shape = build(*CONFIGS[0])
    model.set_attn_implementation("eager")
    rows = packing.plain_rows([Example([5] * 8, [6] * 4)] * 5, pad=0)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        packing.states(model.base_model, rows, rows.predicting_places())
    unseen = 4 * shape.num_layers * shape.heads * shape.head_dim * 5 * 12 * (12 - 6.5)
    expected = model_size.body_flops(shape, 5, 12) - model_size.unread_flops(shape, 5 * 8)
    assert expected + unseen == counted.get_total_flops()


def test_flops_of_a_last_layer_that_is_read_at_one_place_of_each_row():
    model, shape = build(*CONFIGS[0])
    rows = packing.plain_rows([Example([5] * 8, [6] * 4)] * 5, pad=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted, torch.no_grad():
        packing.states(model.base_model, rows, rows.end_places())
    unseen = 4 * (shape.num_layers - 1) * shape.heads * shape.head_dim * 5 * 12 * (12 - 6.5)
    left_out = model_size.unread_flops(shape, 5 * 11) + model_size.unasked_flops(shape, 5, 12)
    assert model_size.body_flops(shape, 5, 12) - left_out + unseen == counted.get_total_flops()


def test_adapters_halve_the_backward_pass_but_for_their_own():
    shape = build(*CONFIGS[0])[1]
    assert model_size.backward_factor(shape, None) == 2
    share = shape.lora_parameters(4) / (shape.num_layers * shape.layer_weights)
    assert model_size.backward_factor(shape, 4) == pytest.approx(1 + 2 * share)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(number, dtype, rank):
    model, shape = build(*CONFIGS[number])
    model = add_lora(model.to(getattr(torch, dtype)), LoraOptions(rank=rank, alpha=6) if rank else None).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its address may be used again
        return tensor

    examples = [Example([5] * 15, [6] * 25)] * 8
    rows = packing.plain_rows(examples, pad=0)
    for places, unread in ((np.arange(8 * 40), 0), (rows.predicting_places(), 8 * 15)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = packing.states(unwrapped(model).base_model, rows, places)
        assert output.requires_grad
        expected = model_size.activation_bytes(shape, 8 * 40, model_size.BYTES[dtype], rank)
        expected -= model_size.unread_bytes(shape, unread, model_size.BYTES[dtype], rank)
        assert expected == pytest.approx(sum(kept.values()), rel=0.015)


def test_the_optimizer_works_in_float32_whatever_it_trains():
    """Of 100 numbers: in float32 two moments and a root; in bfloat16 a copy of them and of the gradients besides."""
    assert model_size.optimizer_bytes(400, 4) == 3 * 400
    assert model_size.optimizer_bytes(200, 2) == 5 * 400
