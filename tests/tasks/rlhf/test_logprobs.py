import torch

from tasks.rlhf.logprobs import pad_by_row, reply_logprobs, reply_sums, sum_by_row, token_logprobs


def naive(model, example, temperature=1.0):
    ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
    logps = torch.log_softmax(model(ids).logits[0].float() / temperature, -1)
    start = len(example.prompt_ids)
    return torch.stack([logps[start + t - 1, token] for t, token in enumerate(example.reply_ids)])


def test_equals_the_plain_forward_pass(tiny_model, examples):
    for temperature in (1.0, 0.7):
        got, entropy = token_logprobs(tiny_model, examples, temperature)
        expected = torch.cat([naive(tiny_model, example, temperature) for example in examples])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert (entropy >= 0).all()


def test_batch_and_padding_change_nothing(tiny_model, examples):
    together, _ = token_logprobs(tiny_model, examples)
    alone = torch.cat([token_logprobs(tiny_model, [example])[0] for example in examples])
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
        token_logprobs(tiny_model, examples)[0].sum().backward()
        return torch.cat([p.grad.flatten() for p in tiny_model.parameters()])

    plain = gradient()
    monkeypatch.setattr(logprobs, "CHUNK", 2)
    monkeypatch.setattr(logprobs, "RECOMPUTE_ABOVE", 0)
    torch.testing.assert_close(gradient(), plain, rtol=1e-4, atol=1e-5)
    tiny_model.zero_grad()


def test_sums_come_in_the_order_given(tiny_model, examples):
    def logprobs(batch):
        return token_logprobs(tiny_model, batch)[0]

    expected = [naive(tiny_model, example).sum().item() for example in examples]
    for budget in (1, 10_000):
        torch.testing.assert_close(
            torch.from_numpy(reply_sums(logprobs, examples, budget)), torch.tensor(expected).double(), rtol=1e-5, atol=0
        )
