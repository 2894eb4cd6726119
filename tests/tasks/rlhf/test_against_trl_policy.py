"""GRPO, RLOO and online DPO side by side with TRL 1.16: the same replies and scores give the same loss and gradient.

TRL's trainers sample and score; what they sampled is measured again with our log-probs, advantages and losses, after
both policies have been moved by the same amount (ratios other than 1). Compared are the value and the gradient by the
embeddings. Not in TRL: k2 as a loss; REINFORCE, PPO with a critic, best of n.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import pad_by_row, token_logprobs
from tasks.rlhf.policy import grpo, online_dpo, rloo
from tests.tasks.rlhf.rollouts import make

pytest.importorskip("trl")
# TRL's own, and what its trainer brings out in transformers and torch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

KL_COEF = 0.1
BETA = 0.3  # of online DPO
MAX_NEW_TOKENS = 8
REPLIES = 4


def score(completion_ids, scorable_from=0):
    """Share of even tokens and a little for the first; None, unscorable, where that is below `scorable_from`."""
    return [
        None if ids[0] < scorable_from else float(np.mean([token % 2 == 0 for token in ids])) + 0.01 * ids[0]
        for ids in completion_ids
    ]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 64)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def folder(tiny_model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl") / "model"
    tiny_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rolled_out(kind, folder, tokenizer, scorable_from=0, **options):
    """A trainer of TRL and what it sampled, scored and measured; its reference is another model than its policy."""
    import trl
    from datasets import Dataset

    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder.parent / "out"),
        per_device_train_batch_size=2 * REPLIES,
        num_generations=REPLIES,
        max_completion_length=MAX_NEW_TOKENS,
        disable_dropout=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=1,
        **options,
    )
    rows = [{"prompt": "w5 w6 w7"}] * REPLIES + [{"prompt": "w11"}] * REPLIES
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(folder),
        reward_funcs=lambda completion_ids, **_: score(completion_ids, scorable_from),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    move(trainer.ref_model, seed=1)
    trainer.current_gradient_accumulation_steps = 1
    return trainer, trainer._generate_and_score_completions(rows)


@torch.no_grad()
def move(model, seed, by=0.02):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def their_loss(kind, trainer, inputs):
    """Loss and gradient of TRL's trainer, its policy moved since it sampled."""
    if kind == "GRPO":  # on-policy TRL takes the ratio to be 1; as in its later passes, it shall not be
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        width = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            measured = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)
        inputs["old_per_token_logps"] = measured[0]
    move(trainer.model, seed=2, by=0.002)
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss, trainer.model.model.embed_tokens.weight.grad.clone()


def our_rollout(inputs, old, reference, scorable_from=0):
    """What TRL sampled, measured and scored by us."""
    prompt_rows = zip(inputs["prompt_ids"], inputs["prompt_mask"].bool(), strict=True)
    reply_rows = zip(inputs["completion_ids"], inputs["completion_mask"].bool(), strict=True)
    prompts, replies = ([ids[mask].tolist() for ids, mask in rows] for rows in (prompt_rows, reply_rows))
    examples = [Example(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    with torch.no_grad():
        old_BT, reference_BT = (pad_by_row(token_logprobs(m, examples), examples) for m in (old, reference))
    rollout = make(
        old_BT,
        pad_by_row(torch.ones(sum(len(reply) for reply in replies)), examples),
        reference=reference_BT,
        scores=[np.nan if value is None else value for value in score(replies, scorable_from)],
        prompts=[0] * REPLIES + [1] * REPLIES,
        most=MAX_NEW_TOKENS,
    )
    return dataclasses.replace(rollout, examples=examples)


def our_loss(module, config, policy, rollout, advantages_BT):
    policy.zero_grad()
    logprobs_BT = pad_by_row(token_logprobs(policy, rollout.examples), rollout.examples)
    out = module.loss(logprobs_BT, logprobs_BT, rollout, advantages_BT, KL_COEF, config)
    loss = out.loss_B.sum() / out.weight_B.sum()
    loss.backward()
    return loss, policy.model.embed_tokens.weight.grad.clone(), out.metrics["clip_fraction"].sum() / out.weight_B.sum()


PLAIN = {"use_bias_correction_kl": False}
CASES = [
    (grpo, {"loss_type": "grpo", **PLAIN}, {}),
    (grpo, {"loss_type": "grpo"}, {"kl_loss": "k3_weighted"}),
    (grpo, {"loss_type": "dapo", "epsilon_high": 0.28, **PLAIN}, {"aggregation": "dapo", "clip_high": 0.28}),
    (grpo, {"loss_type": "dr_grpo", "scale_rewards": "none", **PLAIN}, {"aggregation": "dr_grpo", "scale": False}),
    (
        grpo,
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, **PLAIN},
        {"ratio": "sequence", "clip": 0.02},
    ),
    (rloo, {"epsilon": 0.2}, {"clip": 0.2}),
]


@pytest.mark.parametrize(
    ("module", "their_options", "our_options"), CASES, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_the_same_replies_give_the_same_loss(module, their_options, our_options, folder, tokenizer, tiny_model):
    kind = module.__name__.rpartition(".")[2].upper()
    trainer, inputs = rolled_out(kind, folder, tokenizer, beta=KL_COEF, **their_options)
    rollout, config = our_rollout(inputs, tiny_model, trainer.ref_model), module.Config(**our_options)
    advantages_BT = module.advantages(rollout, KL_COEF, config).advantages_BT
    torch.testing.assert_close(advantages_BT[:, 0].float(), inputs["advantages"], rtol=1e-5, atol=1e-5)
    expected, their_gradient = their_loss(kind, trainer, inputs)
    loss, gradient, clip_fraction = our_loss(module, config, trainer.model, rollout, advantages_BT)
    assert 0 < clip_fraction < 1  # ratios on both sides of the clip
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [grpo, rloo], ids=lambda module: module.__name__)
def test_unscorable_replies_get_the_same_advantages(module, folder, tokenizer, tiny_model):
    """The losses differ here, for a reason: TRL counts an unscorable reply in its mean and pulls it toward the
    reference; here it takes no part."""
    kind = module.__name__.rpartition(".")[2].upper()
    trainer, inputs = rolled_out(kind, folder, tokenizer, scorable_from=17, beta=KL_COEF)
    rollout = our_rollout(inputs, tiny_model, trainer.ref_model, scorable_from=17)
    assert 0 < rollout.scored_B.sum() < 2 * REPLIES
    lesson = module.advantages(rollout, KL_COEF, module.Config())
    torch.testing.assert_close(lesson.advantages_BT[:, 0].float(), inputs["advantages"], rtol=1e-5, atol=1e-5)


def online(folder, tiny_model, tokenizer, score_of, temperature=1.0):
    """Loss and gradient of a step of TRL's online DPO, its policy, and what it sampled and measured as our rollout."""
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    reference = copy.deepcopy(tiny_model)
    move(reference, seed=1)
    prompts = ["w5 w6 w7", "w11", "w9 w8"]
    trainer = OnlineDPOTrainer(
        model=copy.deepcopy(tiny_model),
        ref_model=reference,
        reward_funcs=lambda completion_ids, **_: [score_of(ids) for ids in completion_ids],
        args=OnlineDPOConfig(
            output_dir=str(folder.parent / "online"),
            beta=BETA,
            temperature=temperature,
            max_new_tokens=MAX_NEW_TOKENS,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    generate, drawn = trainer._generate, []
    trainer._generate = lambda *args: drawn.append(generate(*args)) or drawn[-1]
    torch.manual_seed(3)
    expected = trainer.training_step(trainer.model, {"prompt": prompts})
    gradient = trainer.model.model.embed_tokens.weight.grad.clone()
    prompt_ids, prompt_mask, reply_ids, reply_mask, _ = drawn[0]
    examples = [
        Example(prompt[kept.bool()].tolist(), reply[own.bool()].tolist())
        for prompt, kept, reply, own in zip(prompt_ids, prompt_mask, reply_ids, reply_mask, strict=True)
    ]
    with torch.no_grad():
        logprobs = pad_by_row(token_logprobs(reference, examples), examples)
    rollout = make(
        torch.zeros_like(logprobs),
        reply_mask[:, : logprobs.shape[1]],
        reference=logprobs,
        scores=[score_of(ids) for ids in reply_ids.tolist()],
        prompts=[0, 1, 2] * 2,
        most=MAX_NEW_TOKENS,
    )
    return expected.item(), gradient, trainer.model, dataclasses.replace(rollout, examples=examples)


def our_online(policy, rollout):
    config = online_dpo.Config()
    lesson = online_dpo.advantages(rollout, BETA, config)
    kept = lesson.kept_B.nonzero().squeeze(1)
    rollout, lesson = rollout.rows(kept), lesson.rows(kept)
    policy.zero_grad()
    width = rollout.reply_mask_BT.shape[1]
    logprobs_BT = pad_by_row(token_logprobs(policy, rollout.examples), rollout.examples, width)
    out = online_dpo.loss(logprobs_BT, logprobs_BT, rollout, lesson.advantages_BT, BETA, config)
    loss = out.loss_B.sum() / out.weight_B.sum()
    loss.backward()
    return loss.item(), policy.model.embed_tokens.weight.grad, int(out.weight_B.sum())


def by_tokens(ids):
    return float(sum(ids))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_online_dpo_is_the_same(temperature, folder, tokenizer, tiny_model):
    """TRL measures log-probs at temperature 1 whatever it samples at (0.9 by default): at 0.7 its loss is ours on
    log-probs measured at 1. Our loop measures those of the distribution that was sampled from, as in every algorithm
    here; at 1 nothing differs."""
    expected, their_gradient, policy, rollout = online(folder, tiny_model, tokenizer, by_tokens, temperature)
    loss, gradient, num_pairs = our_online(policy, rollout)
    assert num_pairs == 3
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-4, atol=1e-6)
    assert abs(loss - np.log(2)) > 0.01  # the policy is not the reference


def test_online_dpo_differs_where_two_replies_score_the_same(folder, tokenizer, tiny_model):
    """TRL calls the first of them the better one; to us they are no pair."""
    expected, _, policy, rollout = online(folder, tiny_model, tokenizer, lambda ids: 0.0)
    assert not online_dpo.advantages(rollout, BETA, online_dpo.Config()).kept_B.any()
    first_better = dataclasses.replace(rollout, scores_B=torch.tensor([1.0] * 3 + [0.0] * 3, dtype=torch.float64))
    assert our_online(policy, first_better)[0] == pytest.approx(expected, rel=1e-5)
