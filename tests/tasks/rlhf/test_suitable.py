"""Models of other types: they go through all stages, or are refused before the first one trains them."""

import copy
import types

import pytest
import torch
import yaml

from tasks.adapters import reward_model as registry_model
from tasks.rlhf import base_model, classifiers, suitable
from tasks.rlhf.batch import Example
from tasks.rlhf.options import ModelOptions
from tasks.rlhf.reward_model import load_reward, new_reward_model, save_reward, score_examples
from tests.tasks.conftest import ROOT
from tests.tasks.rlhf import tiny

REPLIES = [Example([5, 6], [7, 8, 1]), Example([9], [10, 1]), Example([5, 6], [11, 1])]


def refusal(model):
    with pytest.raises(ValueError, match=r"^params.yaml: model.base = 'x': a model of type ") as error:
        suitable.check(model, "x")
    assert str(error.value).endswith("; choose a model of another type")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kind", ["Llama", "GPT2", "GPTNeoX", "Gemma2", "Mixtral", "Olmo2", "Bloom", "Gemma4Text", "Lfm2"]
)
def test_models_that_reply_token_by_token_are_suitable(kind, dtype):
    sizes = {
        "Mixtral": {"num_key_value_heads": 2},
        "Gemma4Text": {"num_key_value_heads": 2, "head_dim": 8},  # its layers are of several sizes
        "Lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},  # the first one keeps a state
    }
    suitable.check(tiny.language_model(kind, **sizes.get(kind, {})).to(getattr(torch, dtype)), "x")


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_remembers_otherwise_is_refused():
    """Mamba keeps no keys and values, and takes no cache by their name: every token would be drawn as a first one."""
    model = tiny.language_model("Mamba", state_size=8)
    assert "samples otherwise than it is trained (log-probs differ by" in refusal(model)
    del model.config.num_attention_heads  # which it has none of by itself
    assert "remembers what it has read in a way that sampling does not know" in refusal(model)


def test_what_is_done_to_logits_is_known(tiny_model):
    class Doubled(type(tiny_model)):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    model = copy.deepcopy(tiny_model)
    suitable.check(model, "x")
    model.__class__ = Doubled
    assert "does something unknown to what its head gives (log-probs differ by" in refusal(model)


def test_a_model_that_sees_what_comes_later_is_refused(tiny_model):
    model = copy.deepcopy(tiny_model)
    body, forward = model.base_model, model.base_model.forward

    def both_ways(self, **kwargs):
        return forward(**kwargs | {"attention_mask": torch.ones(1, 1, 8, 8, dtype=torch.bool)})

    body.forward = types.MethodType(both_ways, body)
    assert "sees tokens that come later" in refusal(model)


def test_a_model_that_is_sampled_otherwise_is_refused():
    """Its positions count padding; of rotations only differences matter."""
    model = tiny.language_model("GPT2")
    body, forward = model.base_model, model.base_model.forward

    def of_padding_too(self, *args, **kwargs):
        return forward(*args, **{key: value for key, value in kwargs.items() if key != "position_ids"})

    suitable.check(model, "x")
    body.forward = types.MethodType(of_padding_too, body)
    assert "samples otherwise than it is trained (log-probs differ by" in refusal(model)


def test_what_is_no_language_model_is_refused_before_it_is_loaded(tmp_path):
    from transformers import T5Config

    T5Config(vocab_size=64).save_pretrained(tmp_path)
    options = ModelOptions(**yaml.safe_load((ROOT / "params.yaml").read_text())["model"] | {"base": str(tmp_path)})
    with pytest.raises(
        ValueError, match=r"a model of type t5 is no language model that replies token by token; choose"
    ):
        base_model.load_base(options, None, 0)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(
        ValueError, match=r"model.base = '.*': its config.json cannot be read: .*; check the folder or name"
    ):
        base_model.config_of(str(tmp_path), None)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_fills_gaps_is_refused():
    refusal(tiny.language_model("Bert"))


@pytest.mark.parametrize("kind", ["Granite", "Cohere2", "Olmoe"])
def test_a_reward_model_of_a_type_without_a_classifier(kind, tmp_path):
    import transformers

    folder = tmp_path / "sft"
    tiny.language_model(kind).save_pretrained(folder)
    model = new_reward_model(folder, "float32", 0)
    body = transformers.AutoModel.from_pretrained(folder)
    for own, loaded in zip(model.network.base_model.parameters(), body.parameters(), strict=True):
        assert torch.equal(own, loaded)
    scores_B = score_examples(model, REPLIES)
    tokenizer = types.SimpleNamespace(save_pretrained=lambda to: (to / "tokenizer_config.json").write_text("{}"))
    save_reward(model, tokenizer, tmp_path / "reward")
    assert score_examples(load_reward(tmp_path / "reward"), REPLIES) == pytest.approx(scores_B, rel=1e-5)
    assert len(set(scores_B.round(6))) == 3
    registered, head_KD = registry_model._body(tmp_path / "reward"), registry_model._head(tmp_path / "reward")
    ids_1L = torch.tensor([[*REPLIES[0].prompt_ids, *REPLIES[0].reply_ids]])
    with torch.no_grad():
        score = float(head_KD @ registered(ids_1L).last_hidden_state[0, -1])
    assert score == pytest.approx(scores_B[0], rel=1e-5)
    assert classifiers.outline(model.network.config, torch.float32).score.weight.is_meta
