"""Models as the loops get them: attention by length, and memory left as it comes."""

import copy

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tasks.rlhf import attention, base_model, models
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.options import ModelOptions
from tests.tasks.rlhf import tiny
from tests.tasks.rlhf.test_loops import data, train_sft, weights


@pytest.fixture
def as_before():
    """Torch's switches belong to the process: put back what `seed_everything` sets."""
    algorithms = torch.are_deterministic_algorithms_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(algorithms)
    torch.utils.deterministic.fill_uninitialized_memory = fills


@pytest.mark.skipif(torch.cuda.is_available(), reason="the choice is for a CPU")
@pytest.mark.parametrize(("places", "chosen"), [(96, "eager"), (97, attention.NAME)])
def test_short_texts_get_plain_attention_and_the_same_values(places, chosen):
    model = tiny.language_model(max_position_embeddings=places)
    assert model.config._attn_implementation == "sdpa"
    placed = models.placed(copy.deepcopy(model))
    assert placed.config._attn_implementation == chosen
    found, expected = token_logprobs(placed, data()), token_logprobs(model, data())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_choice_of_attention_is_not_saved(tmp_path):
    model = models.placed(tiny.language_model())
    model.save_pretrained(tmp_path)
    assert "attn" not in (tmp_path / "config.json").read_text()


def test_no_step_reads_memory_that_it_has_not_written(as_before):
    """New tensors full of NaN, as torch gives them in its deterministic mode, or left as they are: the same bits."""
    models.seed_everything(0)
    assert not torch.utils.deterministic.fill_uninitialized_memory
    learned = []
    for fills in (True, False):
        torch.utils.deterministic.fill_uninitialized_memory = fills
        model = models.placed(tiny.language_model())
        train_sft(model)
        learned.append(weights(model))
    assert torch.equal(*learned)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_texts_longer_than_a_model_has_places_are_refused(tmp_path, kind):
    """GPT-2 calls them by another name, and looks beyond its table."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    if kind == "llama":
        model = tiny.language_model(max_position_embeddings=24)
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=24, n_embd=16, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "vocab_size": 320}
    params = {"base": str(tmp_path), "revision": None, "dtype": "float32", "lora": None, **sizes}
    with pytest.raises(ValueError, match=rf"model.max_length = 25: {tmp_path} has room for 24 tokens .*; lower it"):
        base_model.load_base(ModelOptions(max_length=25, **params), [], 0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0})), pad_token="p", eos_token="e")
    assert models.max_tokens(base_model.load_base(ModelOptions(max_length=24, **params), tokenizer, 0)) == 24
