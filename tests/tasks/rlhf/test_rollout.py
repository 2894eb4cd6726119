import pytest
import torch

from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.rollout import sample

PROMPTS = [[5, 6, 7], [11], [21, 22, 23, 24, 25, 26], [31, 32]] * 5


def draw(model, prompts=PROMPTS, **options):
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3, "eos_id": 1, "pad_id": 0}
    return sample(model, prompts, **{**settings, **options})


def test_greedy_equals_generate(tiny_model):
    replies = draw(tiny_model, PROMPTS[:4], temperature=0)
    for prompt, reply in zip(PROMPTS, replies, strict=False):
        ids = torch.tensor([prompt])
        out = tiny_model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=1
        )
        assert reply.ids == out[0, len(prompt) :].tolist()


def test_logprobs_are_those_the_trainer_measures(tiny_model):
    for temperature in (1.0, 0.5):
        replies = draw(tiny_model, temperature=temperature)
        examples = [Example(p, r.ids) for p, r in zip(PROMPTS, replies, strict=True)]
        measured = token_logprobs(tiny_model, examples, temperature)
        sampled = torch.tensor([lp for reply in replies for lp in reply.logprobs])
        torch.testing.assert_close(measured.detach(), sampled, rtol=1e-4, atol=1e-4)


def test_ends_at_eos_and_says_so(tiny_model):
    replies = draw(tiny_model, PROMPTS * 10, max_new_tokens=40)
    assert any(reply.finished for reply in replies)
    for reply in replies:
        assert reply.finished == (reply.ids[-1] == 1)
        assert 1 not in reply.ids[:-1]
        assert len(reply.ids) == len(reply.logprobs) <= 40


def test_seed_decides(tiny_model):
    assert draw(tiny_model) == draw(tiny_model)
    assert draw(tiny_model) != draw(tiny_model, seed=4)


def test_samples_follow_the_model(tiny_model):
    """First-token frequencies against the exact distribution: total variation of 4,000 draws."""
    replies = draw(tiny_model, [[5, 6, 7]] * 4000, max_new_tokens=1, batch_size=4000)
    counts = torch.bincount(torch.tensor([reply.ids[0] for reply in replies]), minlength=64) / 4000
    with torch.no_grad():
        exact = torch.softmax(tiny_model(torch.tensor([[5, 6, 7]])).logits[0, -1], -1)
    assert (counts - exact).abs().sum() / 2 < 0.06


def test_a_prompt_is_read_once_for_all_its_replies(tiny_model):
    """Also where prompts of different lengths share a batch; the log-probs are those that the trainer measures."""
    read = []
    hook = tiny_model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(3)]
    replies = draw(tiny_model, prompts)
    hook.remove()
    assert read[0] == (4, 6)
    assert read[1][0] > 4
    for first in range(0, len(prompts), 3):
        assert len({tuple(reply.ids) for reply in replies[first : first + 3]}) > 1  # draws of their own
    examples = [Example(prompt, reply.ids) for prompt, reply in zip(prompts, replies, strict=True)]
    sampled = torch.tensor([lp for reply in replies for lp in reply.logprobs])
    torch.testing.assert_close(token_logprobs(tiny_model, examples).detach(), sampled, rtol=1e-4, atol=1e-4)
    alone = [draw(tiny_model, [prompt], temperature=0)[0].ids for prompt in prompts]
    assert [reply.ids for reply in draw(tiny_model, prompts, temperature=0)] == alone


@pytest.mark.parametrize(
    ("kind", "changes", "batches"),
    [
        ("llama", {}, [1024, 276]),
        # 2 x 1 x 16 numbers of 4 bytes for each of 3 tokens, and 8 bytes for each of 60,000 of the vocabulary
        ("llama", {"vocab_size": 60_000}, [2**28 // (2 * 16 * 4 * 3 + 8 * 60_000)] * 2 + [184]),
        ("gpt2", {"vocab_size": 200_000}, [256] * 5 + [20]),
    ],
)
def test_batches_are_as_large_as_suits_the_model(kind, changes, batches):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = AutoConfig.for_model(kind, **sizes | {"num_attention_heads": 2} | changes)
    model = AutoModelForCausalLM.from_config(config)
    rows = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    assert len(draw(model, [[5, 5], [6]] * 650, max_new_tokens=1)) == 1300
    assert sorted(rows) == sorted(batches)
