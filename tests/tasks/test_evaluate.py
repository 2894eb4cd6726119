"""The evaluate stage end to end on random models of a few thousand weights."""

import json
import math
import shutil
from pathlib import Path

import pytest

from tasks import evaluate, records, world
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation.summary import Summary
from tasks.rlhf.options import ModelOptions
from tests.tasks.folders import refill

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MODEL = ModelOptions(
    base="scratch",
    revision=None,
    dtype="float32",
    max_length=96,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=32,
    vocab_size=400,
    lora=None,
)
PARAMS = evaluate.Params(
    seed=0, model=MODEL, num_samples=2, num_safety_samples=3, temperature=1.0, max_new_tokens=6, num_bootstrap=200
)


def make_tokenizer(folder, words="", template=TEMPLATE):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<user>", "<assistant>", "<system>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([words], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def prompt_ids(tokenizer, prompt):
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data/ folder as the earlier stages leave it, with random models."""
    from tasks.rlhf import base_model, models, reward_model

    data = tmp_path_factory.mktemp("work") / "data"
    tokenizer = make_tokenizer(data / "tokenizer")
    for number, name in enumerate(("sft", "policy")):
        models.save(base_model.load_base(MODEL, tokenizer, number), tokenizer, data / "models" / name)
    for number, name in enumerate(("reward/0", "reward/1", "judge")):
        reward = reward_model.new_reward_model(data / "models/sft", "float32", number)
        reward.shift, reward.scale = 0.5, 2.0
        reward_model.save_reward(reward, tokenizer, data / "models" / name)
    (data / "champion").mkdir()
    write_data(data, tokenizer)
    return data


def write_data(data, tokenizer):
    made = world.generate(world.WorldParams(num_demonstrations=1, num_preferences=40, num_raters=3, length_bias=0.0), 0)
    prompts = made["prompts"][::60] + [row for row in made["prompts"] if row.domain == "unsafe"][:5]
    safety = [row for row in made["safety"] if row.expected == "decline"][:7]
    for name, rows, record in (("prompts", prompts, records.Prompt), ("safety", safety, records.Safety)):
        table = records.to_table(rows, record)
        ids = [prompt_ids(tokenizer, row.prompt) for row in rows]
        refill(data / f"prepared/{name}/test", table.append_column("prompt_ids", [ids]))
    votes = [row for row in made["preferences"] if row.choice != "unsure"]
    rows = [
        records.pair_row(row, prompt_ids(tokenizer, row.prompt), *(reply_ids(tokenizer, r) for r in replies(row)))
        for row in votes
    ]
    refill(data / "prepared/pairs/test", records.pair_table(rows[:20]))
    on_policy = [{**row, "source": "collected"} for row in rows[20:]]
    records.write_table(records.pair_table(on_policy), data / "collected/test.parquet")


def replies(row):
    return row.reply_a, row.reply_b


def reply_ids(tokenizer, reply):
    return [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]


@pytest.fixture
def data(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "data"))


def run(data, **changes):
    tracker = FileTracker("evaluate", data)
    try:
        return evaluate.run(PARAMS.model_copy(update=changes), data, tracker), tracker
    finally:
        tracker.close()


def test_metrics_have_the_shape_that_later_stages_read(data):
    metrics, tracker = run(data)
    assert set(metrics["models"]) == {"sft", "policy"}
    assert metrics["win_rate_champion"] is None
    assert metrics["simulated"] is True
    for estimate in (metrics["win_rate"]["gold"], metrics["win_rate"]["judge"], metrics["win_rate"]["reward"]):
        assert estimate.low <= estimate.value <= estimate.high
    assert metrics["models"]["sft"]["kl"] is None
    policy = metrics["models"]["policy"]
    assert policy["kl"].value > 0
    assert policy["kl_k3"].value > 0
    assert 1 <= policy["num_tokens"].value <= 6
    assert policy["declined_unsafe"].n == 7  # the five among the prompts are not asked twice
    assert policy["declined_safe"] is None
    assert tracker.phases["sample"] > 0


def test_items_hold_a_row_per_reply_and_the_report_follows_from_them(data):
    metrics, _ = run(data)
    items = records.read_table(data / "evaluation/items.parquet").to_pylist()
    pairs = records.read_table(data / "evaluation/pairs.parquet").to_pylist()
    unsafe = {row["key"] for row in items if row["expected"] == "decline"}
    others = {row["key"] for row in items} - unsafe
    assert len(items) == 2 * (2 * len(others) + 3 * len(unsafe))
    again = evaluate._estimates(Summary(0, 200).metrics(items, pairs))
    assert {**again, "simulated": True} == metrics


def test_a_conditioned_policy_is_asked_with_the_shares_of_the_parameters(data, monkeypatch):
    """It alone is, and what is kept of its replies stands beside the bare prompt."""
    from tasks.rlhf import conditioning, models, rollout

    tokenizer, sample, asked = models.load_tokenizer(data / "tokenizer"), rollout.sample, []

    def recorded(model, prompts, **options):
        asked.append([tokenizer.decode(ids) for ids in prompts])
        return sample(model, prompts, **options)

    monkeypatch.setattr(rollout, "sample", recorded)
    with pytest.raises(ValueError, match=r"evaluate.preference = .*: the policy is not conditioned on any; set it to"):
        run(data, preference={"brief": 1.0, "kind": 3.0})
    conditioning.note(data / "models/policy", ["brief", "kind"])
    asked.clear()
    run(data, preference={"brief": 1.0, "kind": 3.0})
    (of_sft, of_policy), line = asked, "[brief 25, kind 75]\n"
    assert not any(line in text for text in of_sft)
    assert all(line in text for text in of_policy)
    assert [text.replace(line, "") for text in of_policy] == of_sft
    items = records.read_table(data / "evaluation/items.parquet").to_pylist()
    assert not any(line in message["content"] for row in items for message in row["prompt"])


def test_the_same_params_give_the_same_bytes_and_another_seed_does_not(data):
    run(data)
    first = (data / "evaluation/items.parquet").read_bytes(), (data / "evaluation/pairs.parquet").read_bytes()
    run(data)
    assert first == (
        (data / "evaluation/items.parquet").read_bytes(),
        (data / "evaluation/pairs.parquet").read_bytes(),
    )
    run(data, seed=1)
    assert first[0] != (data / "evaluation/items.parquet").read_bytes()


def test_models_draw_with_seeds_of_their_own(data):
    """The same weights as SFT and as policy still give different replies: wins are not an artefact of one draw."""
    shutil.rmtree(data / "models/policy")
    shutil.copytree(data / "models/sft", data / "models/policy")
    run(data)
    items = records.read_table(data / "evaluation/items.parquet").to_pylist()
    by_model = {name: [row["reply"] for row in items if row["model"] == name] for name in ("sft", "policy")}
    assert by_model["sft"] != by_model["policy"]
    assert {row["kl"] for row in items if row["model"] == "policy"} == {0.0}


def test_pairs_carry_raw_margins_and_the_truth(data):
    metrics, _ = run(data)
    pairs = records.read_table(data / "evaluation/pairs.parquet").to_pylist()
    for row in pairs:
        # Two members of scale 2: the raw margin is twice the normalised one.
        assert math.isclose(row["reward_margin"], 2 * (row["reward_a"] - row["reward_b"]), abs_tol=1e-9)
    assert {row["source"] for row in pairs} == {"world", "collected"}
    assert set(metrics["reward"]["by_source"]) == {"world", "collected"}


@pytest.mark.parametrize(("reference", "per_token"), [(True, False), (True, True), (False, True)])
def test_a_policy_of_preferences_is_asked_as_a_reward_model(data, monkeypatch, reference, per_token):
    """By hand: sums over the logits of one reply at a time."""
    import torch

    from tasks.rlhf import implicit, models

    monkeypatch.setattr(evaluate, "IMPLICIT_PAIRS", 12)
    assert "implicit" not in run(data)[0]
    implicit.note(data / "models/policy", implicit.ImplicitReward(reference=reference, per_token=per_token))
    metrics, _ = run(data)
    policy, sft = (models.load_policy(data / "models" / name, "float32") for name in ("policy", "sft"))

    @torch.no_grad()
    def log_p(model, prompt, reply):
        logits = model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return float(logits.gather(1, torch.tensor(reply)[:, None]).sum())

    def reward(prompt, reply):
        found = log_p(policy, prompt, reply) - (log_p(sft, prompt, reply) if reference else 0.0)
        return found / len(reply) if per_token else found

    pairs = records.read_table(data / "evaluation/pairs.parquet").to_pylist()
    given = {row["id"]: row for row in evaluate.held_out.read_pairs(data, evaluate.held_out.TEST)}
    asked = [row for row in pairs if row["implicit_margin"] is not None]
    assert 6 <= len(asked) <= 12
    assert {row["source"] for row in asked} == {"world", "collected"}  # spread over all
    right = []
    for row in asked:
        pair = given[row["id"]]
        margin = reward(pair["prompt_ids"], pair["a_ids"]) - reward(pair["prompt_ids"], pair["b_ids"])
        assert row["implicit_margin"] == pytest.approx(margin, abs=1e-3)
        right.append(0.5 if row["label"] == 0.5 else float((margin > 0) == (row["label"] > 0.5)))
    found = metrics["implicit"]["accuracy"]
    assert found.value == pytest.approx(sum(right) / len(right))
    assert found.n == len(asked)
    assert found.low <= found.value <= found.high


def test_a_champion_takes_part(data):
    (data / "champion/manifest.json").write_text("{}")
    shutil.copytree(data / "models/sft", data / "champion/policy")
    metrics, _ = run(data)
    assert metrics["win_rate_champion"]["judge"].n == metrics["win_rate"]["judge"].n
    assert metrics["models"]["champion"]["kl"].value == 0
    assert metrics["change_champion"]["declined_unsafe"] is not None


def test_a_champion_of_another_tokenizer_is_asked_in_its_own_tokens(data):
    from tasks.rlhf import base_model, models

    (data / "champion/manifest.json").write_text("{}")
    other = make_tokenizer(data / "elsewhere", words="What is the capital " * 50)
    models.save(base_model.load_base(MODEL, other, 5), other, data / "champion/policy")
    metrics, _ = run(data)
    assert metrics["models"]["champion"]["kl"] is None  # log-probs over other tokens do not compare
    assert metrics["win_rate_champion"]["judge"].n == metrics["win_rate"]["judge"].n


def test_a_base_model_is_measured_where_one_exists(data):
    metrics, _ = run(data, model=MODEL.model_copy(update={"base": str(data / "models/sft")}))
    assert list(metrics["models"]) == ["base", "sft", "policy"]
    assert metrics["models"]["base"]["kl"].value == 0  # here the base is the SFT model itself


def test_real_data_has_no_gold_and_says_so(data):
    path = data / "prepared/prompts/test"
    rows = [{**row, "source": "hh"} for row in records.read_table(path).to_pylist()]
    refill(path, records.pa.Table.from_pylist(rows, schema=records.read_table(path).schema))
    safety = records.read_table(data / "prepared/safety/test")
    refill(data / "prepared/safety/test", safety.slice(0, 0))
    metrics, _ = run(data)
    assert metrics["simulated"] is False
    assert metrics["win_rate"]["gold"] is None
    assert metrics["reward"]["ceiling"] is None
    assert metrics["models"]["policy"]["gold"] is None
    assert metrics["win_rate"]["judge"] is not None
    json.dumps(evaluate.stage.plain(metrics), allow_nan=False)


def test_no_comparisons_leave_null_not_nan(data):
    given, collected = (data / path for path in evaluate.held_out.TEST.pairs)
    refill(given, records.pair_table([]))
    records.write_table(records.pair_table([]), collected)
    metrics, _ = run(data)
    assert metrics["reward"]["accuracy"] is None
    json.dumps(evaluate.stage.plain(metrics), allow_nan=False)


@pytest.mark.parametrize("gone", ["models/reward", "prepared/prompts/test", "models/judge"])
def test_a_missing_input_is_named(data, gone):
    shutil.rmtree(data / gone)
    with pytest.raises(FileNotFoundError, match=gone):
        run(data)


def test_no_prompts_is_an_error(data):
    for name in ("prompts", "safety"):
        path = data / f"prepared/{name}/test"
        refill(path, records.read_table(path).slice(0, 0))
    with pytest.raises(ValueError, match=r"no test prompts.*folds.test"):
        run(data)
