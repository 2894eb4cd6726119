"""Side by side with TRL 1.16: its trainers on a tiny model and our loops on the very token ids of its batches.

Both measure the same policy against the same reference; the losses of one batch agree within 1e-5, or the test says
where the two differ and why, and holds the difference to its formula. DPO with `label_smoothing` (cDPO) has no peer:
TRL's `sigmoid` loss takes no notice of that option. `sft_weight` is ours alone. Of reward models, ties, weights, label
smoothing, L2, bounds, heads and a score per token are ours alone, and so is the scale that ours get after training.
"""

import copy
from functools import partial

import pytest
import torch

from tasks.rlhf import algorithms, train_reward
from tasks.rlhf.batch import Example, Pair
from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.feedback import Feedback
from tasks.rlhf.logprobs import reply_nll, reply_sums, token_logprobs
from tasks.rlhf.options import DatasetOptions, RewardOptions
from tasks.rlhf.reward_model import RewardModel
from tasks.rlhf.train_on_dataset import train_on_dataset
from tasks.rlhf.train_on_feedback import train_on_feedback
from tasks.rlhf.train_on_pairs import train_on_pairs
from tests.tasks.rlhf import tiny
from tests.tasks.rlhf.test_loops import Recorder, pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own, about its experimental trainers and about torch
OPTIONS = {"lr": 1e-3, "num_epochs": 1, "batch_tokens": 10**6}
NUM_PAIRS = 6


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl", minversion="1.16")


@pytest.fixture(scope="module")
def tokenizer():
    """Token number n is the word wn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{n}": n for n in range(2, 64)}}
    words_of = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    words_of.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words_of, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def reference(tiny_model):
    model = copy.deepcopy(tiny_model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def text(ids):
    return "".join(f" w{n}" for n in ids if n != 1)


def dataset():
    from datasets import Dataset

    found = pairs(NUM_PAIRS)
    return Dataset.from_list(
        [
            {
                "prompt": text(pair.a.prompt_ids).strip(),
                "chosen": text(pair.a.reply_ids),
                "rejected": text(pair.b.reply_ids),
            }
            for pair in found
        ]
    )


def settings(tmp_path, **options):
    return {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "per_device_train_batch_size": 2 * NUM_PAIRS,
        "max_length": None,
        **options,
    }


def first_batch(trainer):
    trainer.model.train()
    return next(iter(trainer.get_train_dataloader()))


def logprobs_of(model):
    frozen = copy.deepcopy(model).eval()

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(frozen, examples)

    return logprobs


def ours(name, policy, reference, rows, **config):
    """Loss of the first optimiser step, over all rows."""
    algorithm = algorithms.load(name, {**config, **OPTIONS})
    recorder = Recorder()
    train = train_on_feedback if algorithm.unpaired else train_on_pairs
    train(copy.deepcopy(policy), partial(reply_sums, logprobs_of(reference)), rows, algorithm, 0, recorder)
    return recorder.rows[0]["loss"]


def example(ids, reply_mask, attention_mask):
    """A row of TRL's batch as an Example: its reply ends with EOS, and padding is no part of either."""
    ids, reply_mask = ids[attention_mask.bool()], reply_mask[attention_mask.bool()].bool()
    start = int(reply_mask.long().argmax())
    assert reply_mask[start:].all()
    assert ids[-1] == 1
    return Example(ids[:start].tolist(), ids[start:].tolist())


def rows_of_dpo(batch):
    rows = [
        example(*row) for row in zip(batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True)
    ]
    assert len(rows) == 2 * NUM_PAIRS
    return [Pair(a, b, label=1.0, weight=1.0) for a, b in zip(rows[:NUM_PAIRS], rows[NUM_PAIRS:], strict=True)]


@pytest.mark.parametrize(
    ("name", "config", "loss_type", "options"),
    [
        ("dpo", {"beta": 0.3}, "sigmoid", {"beta": 0.3}),
        ("ipo", {"tau": 0.4, "log_ratio": "mean"}, "ipo", {"beta": 0.4}),
        ("rdpo", {"beta": 0.3, "flip_rate": 0.1}, "robust", {"beta": 0.3, "label_smoothing": 0.1}),
    ],
)
def test_dpo_ipo_and_robust_dpo_are_the_same(
    trl, tokenizer, tiny_model, reference, tmp_path, name, config, loss_type, options
):
    policy = copy.deepcopy(tiny_model)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=copy.deepcopy(reference),
        args=trl.DPOConfig(**settings(tmp_path, loss_type=[loss_type], **options)),
        train_dataset=dataset(),
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    theirs = trainer.compute_loss(trainer.model, batch).item()
    rows = rows_of_dpo(batch)
    assert ours(name, tiny_model, reference, rows, **config) == pytest.approx(theirs, rel=1e-5)
    if name == "ipo":  # the sum over the reply, as in the paper, is another loss: TRL has the mean only
        summed = ours("ipo", tiny_model, reference, rows, **config | {"log_ratio": "sum"})
        assert summed != pytest.approx(theirs, rel=0.01)


def test_kto_is_the_same_on_the_same_mismatched_rows(trl, tokenizer, tiny_model, reference, tmp_path):
    """TRL rotates the replies within each batch of the file; given its partners, ours agrees.

    The rotation hands a row the other reply to its own prompt where the two follow each other in a batch, which is no
    mismatch; ours never does.
    """
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(tiny_model),
        ref_model=copy.deepcopy(reference),
        args=trl.KTOConfig(**settings(tmp_path, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)),
        train_dataset=dataset(),
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    theirs = trainer.compute_loss(trainer.model, batch).item()
    own, partners = (
        [example(*row) for row in zip(*(batch[f"{kind}{key}"] for key in keys), strict=True)]
        for kind in ("", "KL_")
        for keys in [("input_ids", "completion_mask", "attention_mask")]
    )
    rows = [
        Feedback(str(i), *found, desirable=float(wanted), weight=1.0)
        for i, (*found, wanted) in enumerate(zip(own, partners, batch["label"].tolist(), strict=True))
    ]
    assert len(rows) == 2 * NUM_PAIRS
    config = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    assert ours("kto", tiny_model, reference, rows, **config) == pytest.approx(theirs, rel=1e-5)
    # The reference point is above 0 here, so that its estimate matters.
    point = reply_sums(logprobs_of(tiny_model), partners) - reply_sums(logprobs_of(reference), partners)
    assert point.mean() > 0.01


def rows_of_cpo(batch):
    found = []
    for side in ("chosen", "rejected"):
        ids, mask, labels = (batch[f"{side}_{key}"] for key in ("input_ids", "attention_mask", "labels"))
        found.append([example(*row) for row in zip(ids, labels != -100, mask, strict=True)])
    assert len(found[0]) == NUM_PAIRS
    return [Pair(a, b, label=1.0, weight=1.0) for a, b in zip(*found, strict=True)]


def test_simpo_is_the_same(trl, tokenizer, tiny_model, reference, tmp_path):
    """TRL's SimPO is a loss of its CPO trainer, whose own likelihood term, 1.0 by default, is switched off here."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    options = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "cpo_alpha": 0.0}
    trainer = CPOTrainer(
        model=copy.deepcopy(tiny_model),
        args=CPOConfig(**settings(tmp_path, **options)),
        train_dataset=dataset(),
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    theirs = trainer.compute_loss(trainer.model, batch).item()
    got = ours("simpo", tiny_model, reference, rows_of_cpo(batch), beta=2.0, gamma=0.7)
    assert got == pytest.approx(theirs, rel=1e-5)


def test_orpo_differs_in_its_likelihood_term_alone(trl, tokenizer, tiny_model, reference, tmp_path):
    """TRL's is the mean over all tokens of the batch, prompts included; the paper's P(y | x), eq. 2, which is ours,
    is of the reply's tokens, and the mean over rows counts every pair once.
    """
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer = ORPOTrainer(
        model=copy.deepcopy(tiny_model),
        args=ORPOConfig(**settings(tmp_path, beta=0.3)),
        train_dataset=dataset(),
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    theirs, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    rows = rows_of_cpo(batch)
    policy = logprobs_of(tiny_model)
    chosen = [pair.a for pair in rows]
    reply = reply_sums(policy, chosen)
    whole = [Example(e.prompt_ids[:1], [*e.prompt_ids[1:], *e.reply_ids]) for e in chosen]
    nll_of_trl = -reply_sums(policy, whole).sum() / sum(len(e.reply_ids) for e in whole)
    nll = -sum(s / len(e.reply_ids) for s, e in zip(reply, chosen, strict=True)) / len(rows)
    assert metrics["nll_loss"] == pytest.approx(nll_of_trl, rel=1e-5)
    assert nll != pytest.approx(nll_of_trl, rel=0.01)
    got = ours("orpo", tiny_model, reference, rows, lam=0.3)
    assert got - nll == pytest.approx(theirs.item() - nll_of_trl, rel=1e-5)


def test_sft_is_the_same(trl, tokenizer, tiny_model, tmp_path):
    """Of a prompt and its completion TRL, too, learns the completion alone: the mean over its tokens in the batch."""
    from datasets import Dataset

    texts = Dataset.from_dict({"prompt": dataset()["prompt"], "completion": dataset()["chosen"]})
    trainer = trl.SFTTrainer(
        model=copy.deepcopy(tiny_model),
        args=trl.SFTConfig(**settings(tmp_path)),
        train_dataset=texts,
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    rows = [
        example(*row) for row in zip(batch["input_ids"], batch["labels"] != -100, batch["attention_mask"], strict=True)
    ]
    sizes = {len(row.reply_ids) for row in rows}
    assert (len(rows), len(sizes) > 2) == (NUM_PAIRS, True)  # a mean over rows would be another
    theirs = trainer.compute_loss(trainer.model, batch).item()
    model, recorder = copy.deepcopy(tiny_model), Recorder()
    train_on_dataset(
        model, rows, reply_nll(model), lambda row: len(row.reply_ids), DatasetOptions(**OPTIONS), 0, recorder
    )
    assert recorder.rows[0]["loss"] == pytest.approx(theirs, rel=1e-5)


def sequences(half):
    """Token ids of one side of TRL's reward batch; where the reply begins makes no difference to a score."""
    found = [ids[mask.bool()].tolist() for ids, mask in zip(*half, strict=True)]
    assert all(ids[-1] == 1 for ids in found)
    return [Example(ids[:1], ids[1:]) for ids in found]


@pytest.mark.parametrize(
    ("options", "centering"), [({}, 0.0), ({"center_rewards_coefficient": 0.05}, 0.05)], ids=["plain", "centered"]
)
@pytest.mark.parametrize("margins", [None, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]], ids=["no margin", "margin"])
def test_reward_models_are_the_same(trl, tokenizer, tmp_path, options, centering, margins):
    network = tiny.reward_model().network
    with torch.no_grad():
        network.score.weight.mul_(20)  # scores and their sums are far from 0
    texts = dataset() if margins is None else dataset().add_column("margin", margins)
    trainer = trl.RewardTrainer(
        model=copy.deepcopy(network),
        args=trl.RewardConfig(**settings(tmp_path, **options)),
        train_dataset=texts,
        processing_class=tokenizer,
    )
    batch = first_batch(trainer)
    own = batch.get("margin", torch.zeros(NUM_PAIRS)).tolist()
    halves = zip(batch["input_ids"].chunk(2), batch["attention_mask"].chunk(2), strict=True)
    rows = [
        Comparison(a, b, 1.0, 1.0, labels=(1.0,), margins=(margin,))
        for a, b, margin in zip(*map(sequences, halves), own, strict=True)
    ]
    assert len(rows) == NUM_PAIRS
    theirs = trainer.compute_loss(trainer.model, batch).item()
    margin = None if margins is None else {"source": "scores", "size": 1.0}
    found, recorder = copy.deepcopy(network), Recorder()
    train_reward.train(
        RewardModel(found), found, rows, RewardOptions(centering=centering, margin=margin, **OPTIONS), 0, recorder
    )
    assert recorder.rows[0]["loss"] == pytest.approx(theirs, rel=1e-5)
