"""The stages together, on a tiny world."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import yaml

from tasks.hashes import content_hash
from tasks.records import PAIRS, read_table
from tasks.rlhf.implicit import ImplicitReward, noted
from tests.tasks.conftest import ROOT, STAGES, inside, run_stage
from tests.tasks.folders import refill


def report(root, name):
    return json.loads((root / f"data/reports/{name}.json").read_text())


def curve(root, name):
    with (root / f"data/curves/{name}.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def copy_of(built, tmp_path):
    """The built workspace again, for a test that changes it."""
    root = tmp_path / "copy"
    shutil.copytree(built, root, symlinks=True)
    return root


def change(root, section, **values):
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def test_every_stage_reports_params_and_hashes(built):
    for name in STAGES:
        document = report(built, "reward@0" if name == "reward" else name)
        assert document["metrics"]
        assert document["params"]
        for path, digest in {**document["inputs"], **document["outputs"]}.items():
            assert content_hash(built / "data" / path) == digest


def test_models_learn_something(built):
    for name in ("sft", "reward@0"):
        rows = curve(built, name)
        assert np.mean([r["loss"] for r in rows[-3:]]) < np.mean([r["loss"] for r in rows[:3]])


def test_the_same_params_give_the_same_bytes(built, tmp_path):
    root = copy_of(built, tmp_path)
    with inside(root):
        for name in STAGES:
            run_stage(name)
    for name in ("raw", "tokenizer", "prepared", "collected", "models", "evaluation", "curves"):
        assert content_hash(root / "data" / name) == content_hash(built / "data" / name), name
    for name in STAGES:
        name = "reward@0" if name == "reward" else name
        assert report(root, name) == report(built, name)
    assert (root / "data/report.html").read_bytes() == (built / "data/report.html").read_bytes()


def test_the_environment_does_not_enter_a_models_hash(built, tmp_path):
    """A flow runs stages offline, `dvc repro` alone does not; both write the same folder."""
    import os
    import subprocess
    import sys

    for flag in ("0", "1"):
        root = copy_of(built, tmp_path / flag)
        environment = {**os.environ, "HF_HUB_OFFLINE": flag, "PLUMBLINE_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "tasks.sft"], cwd=root, env=environment, check=True, capture_output=True)
        assert content_hash(root / "data/models/sft") == content_hash(built / "data/models/sft")


def test_another_seed_gives_another_model(built, tmp_path):
    root = copy_of(built, tmp_path)
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"seed": 1}))
    with inside(root):
        run_stage("sft")
    assert content_hash(root / "data/models/sft") != content_hash(built / "data/models/sft")


def test_a_direct_algorithm_does_not_depend_on_the_reward_model(built, tmp_path):
    root = copy_of(built, tmp_path)
    change(root, "align", algorithm="dpo")
    with inside(root):
        run_stage("objective")
        run_stage("align")
        before = (root / "data/objective.json").read_bytes(), content_hash(root / "data/models/policy")
        change(root, "reward", lr=1e-4)
        run_stage("reward")
        run_stage("objective")
        run_stage("align")
    assert ((root / "data/objective.json").read_bytes(), content_hash(root / "data/models/policy")) == before
    assert content_hash(root / "data/models/policy") != content_hash(built / "data/models/policy")


@pytest.mark.parametrize("algorithm", ["kto", "simpo"])
def test_align_without_pairs_or_without_a_reference(built, tmp_path, algorithm):
    """KTO has a loop of its own, SimPO no reference; the same stage runs both."""
    root = copy_of(built, tmp_path)
    change(root, "align", algorithm=algorithm)
    with inside(root):
        run_stage("objective")
        run_stage("align")
    assert report(root, "align")["metrics"]["num_pairs"] == report(built, "reward@0")["metrics"]["num_pairs"]
    rows, kind = curve(root, "align"), "log_ratio" if algorithm == "kto" else "logp"
    # Not the loss: that of a step depends on which rows it holds, and a few hold much of what the canary planted.
    leads = [row[f"chosen_{kind}"] - row[f"rejected_{kind}"] for row in rows]
    assert np.mean(leads[-3:]) > np.mean(leads[:3])
    assert ("chosen_log_ratio" in rows[0]) == (algorithm == "kto")
    of_reference = algorithm == "kto"
    assert noted(root / "data/models/policy") == ImplicitReward(reference=of_reference, per_token=not of_reference)
    assert noted(built / "data/models/policy") is None


def test_a_reward_change_changes_the_objective_of_ppo(built, tmp_path):
    root = copy_of(built, tmp_path)
    change(root, "reward", lr=1e-4)
    with inside(root):
        run_stage("reward")
        with pytest.raises(ValueError, match=r"models/reward/0: not the reward model of .*run `dvc repro objective`"):
            run_stage("align")
        run_stage("objective")
    assert (root / "data/objective.json").read_bytes() != (built / "data/objective.json").read_bytes()


def test_verifiers_alone_need_no_reward_model(built, tmp_path):
    root = copy_of(built, tmp_path)
    change(root, "align", rewards={"learned": 0.0, "verifier": 1.0})
    with inside(root):
        with pytest.raises(ValueError, match=r"names other rewards or tools than .*: run `dvc repro objective`"):
            run_stage("align")
        run_stage("objective")
        shutil.rmtree("data/models/reward/0")
        run_stage("align")
    objective = json.loads((root / "data/objective.json").read_text())
    assert objective["rewards"] == {}
    assert objective["options"] == {"learned": 0.0, "verifier": 1.0}
    metrics = report(root, "align")["metrics"]
    assert metrics["verifiable"].keys() == {"numeric", "exact"}
    rows = curve(root, "align")
    assert all(0 <= row["score"] <= 1 and row["unscorable"] == 0 for row in rows)
    assert content_hash(root / "data/models/policy") != content_hash(built / "data/models/policy")


def test_code_of_replies_is_a_reward(built, tmp_path):
    """Of the learned reward and of unit tests, each by itself; no reply of this model is a program that passes."""
    root = copy_of(built, tmp_path)
    path = root / "data/prepared/prompts/train"
    table = read_table(path)
    verifier = json.dumps({"kind": "tests", "tests": [{"call": "f(1)", "returns": 2}]})
    few = [verifier if row % 50 == 0 else None for row in range(table.num_rows)]
    place = table.schema.get_field_index("verifier")
    refill(path, table.set_column(place, "verifier", pa.array(few, pa.string())))
    change(root, "align", rewards={"verifier": 1.0, "sandbox": {"seconds": 60.0}, "allow_unsandboxed": True})
    with inside(root):
        run_stage("objective")
        run_stage("align")
    rows = curve(root, "align")
    assert all(row["score_verifier"] == 0 for row in rows)
    assert any(row["score_reward_model"] != 0 for row in rows)
    assert rows[0]["score"] == pytest.approx(rows[0]["score_reward_model"])


def test_replies_may_call_tools(built, tmp_path):
    """A model that was never shown a call makes none, and learns as without; the objective names the tools."""
    root = copy_of(built, tmp_path)
    change(root, "align", tools={"names": ["calculator", "search"], "corpus": "papers.jsonl"})
    (root / "data/inputs/papers.jsonl").write_text('{"id": "p1", "text": "the sun is a star"}\n')
    with inside(root):
        with pytest.raises(ValueError, match=r"names other rewards or tools than .*: run `dvc repro objective`"):
            run_stage("align")
        run_stage("objective")
        run_stage("align")
        assert content_hash(root / "data/models/policy") == content_hash(built / "data/models/policy")
        (root / "data/inputs/papers.jsonl").write_text('{"id": "p1", "text": "the moon is none"}\n')
        with pytest.raises(ValueError, match=r"names other rewards or tools than .*: run `dvc repro objective`"):
            run_stage("align")


def test_normalised_scores_have_mean_0_and_spread_1(built):
    from tasks.rlhf import dataset, reward_model

    model = reward_model.load_reward(built / "data/models/reward/0")
    replies = dataset.read_sft_replies(built / "data/collected/train.parquet", built / "data/prepared/demonstrations")
    scores = reward_model.score_examples(model, replies)
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)


def test_collected_pairs_are_the_policys_own_words(built):
    from tasks.rlhf import models

    tokenizer = models.load_tokenizer(built / "data/tokenizer")
    table = read_table(built / "data/collected/train.parquet")
    assert table.schema.equals(PAIRS)
    rows = table.to_pylist()
    assert len(rows) > 10
    for row in rows:
        assert row["reply_a"] == tokenizer.decode(row["a_ids"], skip_special_tokens=True)
        assert row["label"] == {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}[row["choice"]]
        assert 0 <= row["weight"] <= 1


def test_imported_pairs_pass_through_collect(built, tmp_path):
    root = copy_of(built, tmp_path)
    change(root, "collect", labeller="none")
    with inside(root):
        run_stage("collect")
    assert read_table(root / "data/collected/train.parquet").num_rows == 0
    assert content_hash(root / "data/prepared/pairs") == content_hash(built / "data/prepared/pairs")


def test_ppo_starts_at_its_reference(built):
    first = curve(built, "align")[0]
    assert abs(first["kl"]) < 1e-3
    assert first["ratio_error"] < 1e-3
    assert report(built, "align")["metrics"]["reference_sha256"] == content_hash(built / "data/models/sft")


def test_the_policy_is_a_plain_transformers_folder(built):
    from transformers import pipeline

    generate = pipeline("text-generation", model=str(built / "data/models/policy"))
    answer = generate([{"role": "user", "content": "What is 1 + 2?"}], max_new_tokens=5, do_sample=False)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("sft", {"lr": -1}, r"params.yaml: sft.lr = -1: Input should be greater than 0"),
        ("sft", {"learning_rate": 1}, r"params.yaml: sft.learning_rate = 1: unknown key"),
        ("model", {"hidden_size": 33}, r"model.hidden_size = 33: .* give a multiple of 8"),
        ("model", {"base": "nowhere/at-all"}, r"model.base = 'nowhere/at-all' is no local folder"),
        ("model", {"dtype": "float17"}, r"params.yaml: model.dtype = 'float17': Input should be"),
    ],
)
def test_bad_params_stop_sft_with_one_line(built, tmp_path, section, values, message):
    root = copy_of(built, tmp_path)
    change(root, section, **values)
    with inside(root), pytest.raises(ValueError, match=message) as caught:
        run_stage("sft")
    assert "\n" not in str(caught.value)


def test_a_missing_input_names_the_remedy(built, tmp_path):
    root = copy_of(built, tmp_path)
    shutil.rmtree(root / "data/models/sft")
    with inside(root), pytest.raises(FileNotFoundError, match=r"models/sft: no model there; run the stage"):
        run_stage("align")


def test_curves_are_the_recorded_ones(built):
    """Losses, rewards and KL of the tiny run; re-record them with `python -m tests.golden.record`."""
    from tests.golden.record import GOLDEN, curves

    recorded = json.loads(GOLDEN.read_text())
    for name, columns in curves(built).items():
        assert columns.keys() == recorded[name].keys()
        for column, values in columns.items():
            # The last bits of a sum differ between machines, and training carries them on.
            assert values == pytest.approx(recorded[name][column], rel=0.02, abs=0.02), (name, column)


def test_a_pretrained_model_with_adapters(built, tmp_path):
    """The path of a model of the hub, on a local folder of the same architecture: adapters train, merged weights
    are saved, and the reference is the SFT model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tasks.rlhf import models

    tokenizer = models.load_tokenizer(built / "data/tokenizer")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 7,  # padded, as that of real checkpoints is
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    base = tmp_path / "qwen"
    Qwen2ForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    root = copy_of(built, tmp_path)
    change(root, "model", base=str(base), lora={"rank": 4, "alpha": 8.0}, max_length=128)
    for section in ("reward", "judge"):
        change(root, section, canary_share=0.0)  # adapters over random weights learn next to nothing here
    with inside(root):
        for name in STAGES[2:]:
            run_stage(name)
    start, sft, policy = (
        models.load_policy(folder).state_dict()
        for folder in (base, root / "data/models/sft", root / "data/models/policy")
    )
    assert start.keys() == sft.keys() == policy.keys()
    adapted = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(start[adapted], sft[adapted])
    assert not torch.equal(sft[adapted], policy[adapted])
    assert torch.equal(sft["model.embed_tokens.weight"], policy["model.embed_tokens.weight"])
    assert abs(curve(root, "align")[0]["kl"]) < 1e-3  # with fresh adapters the policy is its reference
    assert "base" in report(root, "evaluate")["metrics"]["models"]
