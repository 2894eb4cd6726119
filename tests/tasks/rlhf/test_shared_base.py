"""Models over one base in memory: the same scores and gradients as models of their own, and the base stays as it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.hashes import content_hash
from tasks.rlhf import models, reward_model, shared_base
from tasks.rlhf.options import LoraOptions, ModelOptions, ScoreOptions
from tests.tasks.rlhf import tiny
from tests.tasks.rlhf.test_train_on_rollouts import PROMPTS, Recorder, learner, likes_sevens, section, train_on_rollouts

LORA = LoraOptions(rank=4, alpha=8)
OPTIONS = ModelOptions(
    base="scratch",
    revision=None,
    dtype="float32",
    max_length=64,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=64,
    vocab_size=300,
    lora=LORA,
)


class NoTokenizer:
    def save_pretrained(self, folder):
        (folder / "tokenizer_config.json").write_text("{}")


@pytest.fixture
def sft(tmp_path):
    tiny.language_model().save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


def stir(model):
    """Random numbers for what learns: adapters start as zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def reward(sft, examples):
    """A reward model trained with adapters, as the stage saves it."""
    options = ScoreOptions(objectives={"choice": 1.0, "safety": 0.5}, bound=4.0)
    model = reward_model.new_reward_model(sft, "float32", 0, options, LORA)
    model.network = stir(models.add_lora(model.network, LORA, "SEQ_CLS"))
    reward_model.normalise(model, examples)
    folder = sft.parent / "reward"
    reward_model.save_reward(model, NoTokenizer(), folder, content_hash(sft))
    return folder


def tensors(model):
    return {value.data_ptr() for value in model.parameters()}


def test_scores_are_those_of_a_model_of_its_own(sft, reward, examples):
    base = models.load_policy(sft)
    over, own = shared_base.reward_over(base, sft, reward), reward_model.load_reward(reward)
    expected = reward_model.score_heads(own, examples)
    assert np.allclose(reward_model.score_heads(over, examples), expected, atol=1e-5)
    scores, expected_scores = (reward_model.score_examples(model, examples) for model in (over, own))
    assert np.allclose(scores, expected_scores, atol=1e-5)
    assert expected.std() > 0.1
    named = over.network.named_parameters()
    body = {value.data_ptr() for name, value in named if "lora_" not in name and "score" not in name}
    assert body == tensors(base.base_model)
    assert not any(value.requires_grad for value in over.network.parameters())


def test_the_folder_still_loads_by_itself_and_its_bytes_are_its_contents(sft, reward):
    from transformers import AutoModelForSequenceClassification

    network, report = AutoModelForSequenceClassification.from_pretrained(reward, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [name for name, _ in network.named_parameters() if "lora" in name]
    config = json.loads((reward / "adapters/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert sorted(file.name for file in (reward / "adapters").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    ]


def test_adapters_of_one_model_are_not_those_of_another(sft, reward, examples):
    base = models.load_policy(sft)
    scores = reward_model.score_examples(shared_base.reward_over(base, sft, reward), examples)
    policy = stir(models.to_train(shared_base.sharing(base), OPTIONS))
    critic = models.Critic(models.to_train(shared_base.sharing(base), OPTIONS))
    over = shared_base.reward_over(base, sft, reward)
    assert np.array_equal(reward_model.score_examples(over, examples), scores)
    alone = models.Critic(models.load_policy(sft))
    for head in (critic.head, alone.head):
        torch.nn.init.ones_(head.weight)
    assert torch.allclose(critic(examples), alone(examples), atol=1e-6)  # fresh adapters; those of the policy are not
    assert tensors(base) <= tensors(policy)
    learned = [name for name, value in critic.named_parameters() if value.requires_grad]
    assert all("lora_" in name or name.startswith("head.") for name in learned)
    assert {"head.weight", "head.bias"} < set(learned)


def test_refused_where_the_adapters_are_missing_or_of_another_base(sft, reward, tmp_path):
    base = models.load_policy(sft)
    with pytest.raises(ValueError, match=r"align.one_base = true: .*/sft keeps no adapters: run `dvc repro reward`"):
        shared_base.reward_over(base, sft, sft)
    tiny.language_model(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"adapters over another model than .*/other: run `dvc repro reward`"):
        shared_base.reward_over(base, tmp_path / "other", reward)


def ppo_over_one_base(sft, recomputed):
    options = OPTIONS.model_copy(update={"gradient_checkpointing": recomputed})
    torch.manual_seed(0)
    base = models.load_policy(sft)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    algorithm, run = learner(tiny.language_model(), likes_sevens, "ppo", section())
    policy, critic = (models.to_train(shared_base.sharing(base), options) for _ in range(2))
    run = replace(run, policy=policy, critic=models.Critic(critic).eval())
    start = {name: value.detach().clone() for name, value in run.critic.named_parameters()}
    recorder = Recorder()
    train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, recorder)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    moved = {name for name, value in run.critic.named_parameters() if not torch.equal(value, start[name])}
    assert {name for name in moved if "lora_B" in name}
    assert "head.weight" in moved
    assert all("lora_" in name or name.startswith("head.") for name in moved)
    return [row["value_loss"] for row in recorder.rows], [row["loss"] for row in recorder.rows]


def test_ppo_learns_with_policy_and_critic_over_one_base(sft):
    """Also where layers are computed again in the backward pass, which is long after the other model was used."""
    losses, again = (ppo_over_one_base(sft, recomputed) for recomputed in (False, True))
    assert np.allclose(losses, again, atol=1e-6)
