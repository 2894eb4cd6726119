"""Replies that share the computation of their prompt: they get what rows of their own would give them."""

import copy

import numpy as np
import pytest
import torch

from tasks.rlhf import attention, last_layer, packing
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import token_logprobs

HAND = [Example([5, 6, 7, 8], [9, 10, 1]), Example([11, 12], [13]), Example([5, 6, 7, 8], [14, 1])]
BEGINNING = [50, 51, 52, 53, 54, 55]
SHARED = [
    Example([*BEGINNING, 5, 6, 7, 8], [9, 10, 1]),
    Example([*BEGINNING, 11, 12], [13]),
    Example([*BEGINNING, 5, 6, 7, 8], [14, 1]),
    Example([*BEGINNING, 11, 12], [15, 16, 17, 18, 1]),
    Example([*BEGINNING, 5, 6, 7, 8], [19, 20, 21]),
    Example([*BEGINNING, 30, 31, 32, 33, 34], [35, 1]),  # alone in its row
]


def models(kind: str, attention: str, layers: list[str] | None = None):
    import transformers

    name = kind.capitalize()
    config_type, model_type = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
    torch.manual_seed(0)
    config = config_type(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        attn_implementation=attention, **({"layer_types": layers} if layers else {}),
    )  # fmt: skip
    model = model_type(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def of_each_alone(model, examples):
    """Log-probs and their gradient, every reply in a row of its own."""
    return torch.cat([token_logprobs(model, [example]) for example in examples])


def gradients(model, logprobs_N):
    model.zero_grad()
    (logprobs_N * torch.arange(1, len(logprobs_N) + 1)).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_the_places_of_a_row_by_hand():
    rows = packing._packed(HAND, [((5, 6, 7, 8), [0, 2]), ((11, 12), [1])], pad=0)
    assert rows.ids_RL.tolist() == [[5, 6, 7, 8, 9, 10, 1, 14, 1], [11, 12, 13, 0, 0, 0, 0, 0, 0]]
    assert rows.positions_RL.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5], [0, 1, 2, 0, 0, 0, 0, 0, 0]]
    assert rows.reply_places().tolist() == [4, 5, 6, 11, 7, 8]
    assert rows.predicting_places().tolist() == [3, 4, 5, 10, 3, 7]
    assert rows.end_places().tolist() == [6, 11, 8]
    assert rows.seen_R1LL[0, 0, 8].tolist() == [True] * 4 + [False] * 3 + [True] * 2
    assert rows.seen_R1LL[0, 0, 6].tolist() == [True] * 7 + [False] * 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_shared_prompt_changes_nothing(kind, attention):
    model = models(kind, attention)
    assert packing.rows_of(SHARED, model.config).seen_R1LL is not None
    packed_N = token_logprobs(model, SHARED)
    alone_N = of_each_alone(model, SHARED)
    assert torch.allclose(packed_N, alone_N, rtol=0, atol=1e-5)  # the log-softmax is in fp32
    for packed, alone in zip(gradients(model, packed_N), gradients(model, alone_N), strict=True):
        assert (packed - alone).norm() <= 1e-5 * alone.norm() + 1e-12


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_last_layer_read_at_some_places_is_the_same_there(kind, monkeypatch):
    model = models(kind, "sdpa")
    examples = SHARED[:2]  # rows of their own
    read_N = token_logprobs(model, examples)
    of_read = gradients(model, read_N)
    assert "forward" not in vars(model.base_model.layers[-1])  # put back
    monkeypatch.setattr(last_layer, "KNOWN_BODIES", set())
    whole_N = token_logprobs(model, examples)
    assert torch.allclose(read_N, whole_N, rtol=0, atol=1e-6)
    for read, whole in zip(of_read, gradients(model, whole_N), strict=True):
        assert (read - whole).norm() <= 1e-6 * whole.norm() + 1e-12


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("implementation", ["sdpa", attention.NAME])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_queries_of_few_places_are_those_of_all(kind, implementation, packed, monkeypatch):
    model, asked = models(kind, "sdpa"), []
    if implementation == attention.NAME:
        attention.use(model)
    body = model.base_model
    body.layers[-1].self_attn.q_proj.register_forward_hook(lambda _, given, __: asked.append(given[0].shape[1]))
    examples = [*SHARED, Example([*BEGINNING, 3], [*range(20, 32)])]
    rows = packing.rows_of(examples, model.config) if packed else packing.plain_rows(examples, 0)
    assert (rows.seen_R1LL is not None) == packed
    first = rows.end_places()[:1]
    # Three of the first row, of a prompt too, and one of the others, in no order; then one place in all.
    for places_N in (np.concatenate([rows.end_places()[::-1], rows.starts_B[:1], first % 2]), first):
        monkeypatch.setattr(last_layer, "FEW", 0.5)
        few_ND = packing.states(body, rows, places_N)
        of_few = gradients_of_states(body, few_ND)
        monkeypatch.setattr(last_layer, "FEW", 0.0)
        all_ND = packing.states(body, rows, places_N)
        assert asked[-2] <= 5 < asked[-1] == rows.ids_RL.shape[1]
        assert torch.allclose(few_ND, all_ND, rtol=0, atol=1e-6)
        for few, every in zip(of_few, gradients_of_states(body, all_ND), strict=True):
            assert (few - every).norm() <= 1e-6 * every.norm() + 1e-12


def gradients_of_states(body, states_ND):
    weights_ND = torch.arange(1.0, states_ND.numel() + 1, dtype=torch.float64).reshape(states_ND.shape).cos()
    return torch.autograd.grad((states_ND * weights_ND).sum(), list(body.parameters()))


def test_the_last_mlp_is_computed_where_it_is_read():
    model, seen = models("llama", "sdpa"), []
    for layer in model.base_model.layers:
        layer.mlp.register_forward_hook(lambda mlp, inputs, output: seen.append(tuple(output.shape[:-1])))
    token_logprobs(model, SHARED[:2])
    assert seen == [(2, 13), (4,)]  # 3 + 1 reply tokens


def test_a_reply_does_not_see_its_neighbour():
    model = models("llama", "sdpa")
    changed = copy.copy(SHARED)
    changed[0] = Example(SHARED[0].prompt_ids, [40, 41, 42])
    first, second = (token_logprobs(model, examples).split([3, 1, 2, 5, 3, 2]) for examples in (SHARED, changed))
    assert not torch.allclose(first[0], second[0])
    for before, after in zip(first[1:], second[1:], strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_scores_are_the_same(small_reward_model, pooling, monkeypatch):
    small_reward_model.pooling = pooling
    small_reward_model.network.double()
    packed_B = small_reward_model.forward(SHARED)
    monkeypatch.setattr(packing, "can_pack", lambda config: False)
    assert torch.allclose(packed_B, small_reward_model.forward(SHARED), rtol=0, atol=1e-6)


def test_rows_stay_plain_where_nothing_is_saved_or_the_model_cannot():
    shared, config = SHARED, models("llama", "sdpa").config
    assert packing.rows_of([shared[0], shared[1]], config).seen_R1LL is None  # two prompts
    short, long = Example([5], [6] * 9), Example([5], [7] * 9)
    assert packing.rows_of([short, long], config).seen_R1LL is None  # 19 places instead of 20
    config.model_type = "unheard_of"
    assert packing.rows_of(shared, config).seen_R1LL is None
    window = models("qwen2", "sdpa", ["sliding_attention", "full_attention"]).config
    assert packing.rows_of(shared, window).seen_R1LL is None
