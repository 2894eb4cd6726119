import pytest
import torch

from tasks.rlhf import suitable
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import (
    _Chosen,
    pad_by_row,
    reply_logprobs,
    reply_sums,
    sum_by_row,
    token_logprobs,
    token_logprobs_and_entropy,
)
from tasks.rlhf.rollout import sample
from tests.tasks.rlhf import tiny


def naive(model, example, temperature=1.0):
    ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
    logps = torch.log_softmax(model(ids).logits[0].float() / temperature, -1)
    start = len(example.prompt_ids)
    return torch.stack([logps[start + t - 1, token] for t, token in enumerate(example.reply_ids)])


def test_equals_the_plain_forward_pass(tiny_model, examples):
    for temperature in (1.0, 0.7):
        got, entropy = token_logprobs_and_entropy(tiny_model, examples, temperature)
        expected = torch.cat([naive(tiny_model, example, temperature) for example in examples])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert (entropy >= 0).all()


@pytest.mark.parametrize("of", ["chosen", "entropy", "both"])
def test_gradient_is_that_of_autograd(of):
    """d log p(t) = onehot(t) - p and d H = -p (log p + H), against the plain formulas in float64."""
    logits_NV = torch.randn(7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets_N = torch.tensor([0, 3, 3, 10, 5, 1, 2])
    weights_N = torch.arange(1.0, 8.0, dtype=torch.float64)

    def gradient(chosen_N, entropy_N):
        parts = {"chosen": chosen_N, "entropy": entropy_N, "both": chosen_N - 0.3 * entropy_N}
        return torch.autograd.grad((parts[of] * weights_N).sum(), logits_NV)[0]

    logps_NV = logits_NV - logits_NV.logsumexp(-1, keepdim=True)
    plain = logps_NV[torch.arange(7), targets_N], -(logps_NV.exp() * logps_NV).sum(-1)
    ours = _Chosen.apply(logits_NV, targets_N, True)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(*ours), gradient(*plain), rtol=1e-12, atol=1e-14)


def test_batch_and_padding_change_nothing(tiny_model, examples):
    together = token_logprobs(tiny_model, examples)
    alone = torch.cat([token_logprobs(tiny_model, [example]) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    reordered = reply_logprobs(
        tiny_model, [e.prompt_ids for e in examples], [e.reply_ids for e in examples], batch_tokens=8
    )
    torch.testing.assert_close(
        torch.cat([torch.from_numpy(x) for x in reordered]), alone.detach(), rtol=1e-5, atol=1e-5
    )


def test_row_sums_and_padding(examples):
    values = torch.arange(1.0, 10.0)
    assert sum_by_row(values, examples).tolist() == [6.0, 30.0, 9.0]
    assert pad_by_row(values, examples, 6)[0].tolist() == [1, 2, 3, 0, 0, 0]


def test_recomputed_logits_have_the_same_gradient(tiny_model, examples, monkeypatch):
    from tasks.rlhf import logprobs

    def gradient():
        tiny_model.zero_grad()
        token_logprobs(tiny_model, examples).sum().backward()
        return torch.cat([p.grad.flatten() for p in tiny_model.parameters()])

    plain = gradient()
    monkeypatch.setattr(logprobs, "CHUNK", 2)
    monkeypatch.setattr(logprobs, "RECOMPUTE_ABOVE", 0)
    torch.testing.assert_close(gradient(), plain, rtol=1e-4, atol=1e-5)
    tiny_model.zero_grad()


def test_sums_come_in_the_order_given(tiny_model, examples):
    def logprobs(batch):
        return token_logprobs(tiny_model, batch)

    expected = [naive(tiny_model, example).sum().item() for example in examples]
    for budget in (1, 10_000):
        torch.testing.assert_close(
            torch.from_numpy(reply_sums(logprobs, examples, budget)), torch.tensor(expected).double(), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("budget", [1, 10_000])
def test_replies_to_a_prompt_are_measured_together(tiny_model, examples, budget):
    replies = [[3, 4], [5], [6, 7, 8], [9, 3], [4, 4, 4], [8]]
    same = [Example([9, 9], reply) for reply in replies]
    mixed = [same[0], examples[0], *same[1:3], *examples[1:], *same[3:]]
    batches = []

    def logprobs(batch):
        batches.append([tuple(example.prompt_ids) for example in batch])
        return token_logprobs(tiny_model, batch)

    expected = [naive(tiny_model, example).sum().item() for example in mixed]
    torch.testing.assert_close(
        torch.from_numpy(reply_sums(logprobs, mixed, budget)), torch.tensor(expected).double(), rtol=1e-5, atol=0
    )
    holding = sorted(batch.count((9, 9)) for batch in batches if (9, 9) in batch)
    assert holding == {1: [3, 3], 10_000: [6]}[budget]


FAMILIES = {
    "Granite": {"logits_scaling": 8.0},
    "Cohere": {"logit_scale": 0.0625},
    "Gemma2": {"final_logit_softcapping": 3.0},
    "Qwen2": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_are_the_models_own(kind, examples):
    heads = {"num_key_value_heads": 4, "head_dim": 8, "bos_token_id": 2, "tie_word_embeddings": False}
    model = tiny.language_model(kind, **heads, **FAMILIES[kind])
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # so that what is done to logits is seen
    expected = torch.cat([naive(model, example, 0.7) for example in examples])
    torch.testing.assert_close(token_logprobs(model, examples, 0.7), expected, rtol=1e-4, atol=1e-4)
    suitable.check(model, kind)
    prompts = [example.prompt_ids for example in examples]
    drawn = sample(model, prompts, max_new_tokens=4, temperature=0.7, seed=0, eos_id=1, pad_id=0)
    for prompt, reply in zip(prompts, drawn, strict=True):
        measured = naive(model, Example(prompt, reply.ids), 0.7)
        torch.testing.assert_close(torch.tensor(reply.logprobs), measured, rtol=1e-4, atol=1e-4)
