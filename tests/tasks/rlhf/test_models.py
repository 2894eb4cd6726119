"""Models as the loops get them: attention by length, and memory left as it comes."""

import copy

import pytest
import torch

from tasks.rlhf import attention, models
from tasks.rlhf.logprobs import token_logprobs
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
