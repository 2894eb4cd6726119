"""The passes of every stage: hand-worked counts, what algorithms ask for, and memory against a real step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tasks.rlhf import algorithms, model_size, workload
from tasks.rlhf.batch import Example
from tasks.rlhf.hardware import GPUS, cpu, of_device
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.options import DatasetOptions, RewardOptions
from tasks.rlhf.passes import Lengths, Network, memory, sample, train
from tasks.rlhf.workload import Rows

PARAMS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
SHAPE = model_size.Shape(
    vocab_size=64, hidden_size=32, num_layers=2, heads=4, kv_heads=4, head_dim=8, intermediate_size=64, tied=True
)
NETWORK = Network(SHAPE, 4)
ADAPTED = Network(SHAPE, 4, lora_rank=2)
FOLDS = ("train", "judge", "dev", "test")
ROWS = Rows(
    demonstrations=Lengths(100, 10, 20),
    pairs={fold: Lengths(50, 10, 20) for fold in FOLDS},
    prompts={fold: Lengths(40, 10, 20) for fold in FOLDS},
    conduct=Lengths(5, 10, 20),
)


def algorithm(name, **changes):
    return algorithms.load(name, PARAMS["align"][name] | changes)


def tokens(work):
    return {each.what: each.tokens for each in work.passes}


def test_sft_and_reward_models():
    """100 rows of 30 tokens three times; 50 pairs of 60 tokens twice, both replies normalised on and dev pairs."""
    options = DatasetOptions(lr=1e-3, num_epochs=3, batch_tokens=1000)
    work = workload.sft(NETWORK, ROWS, options)
    assert tokens(work) == {"demonstrations": 9000}
    assert work.passes[0].calls == 9
    # 6 N D less what the embedding does not multiply, plus attention; the head on replies alone.
    matrices = 6 * SHAPE.num_layers * SHAPE.layer_weights * 9000 + 6 * 64 * 32 * 6000
    attention = 3 * 4 * 2 * 32 * 9000 * 15.5
    unread = 3 * 6 * 32 * 64 * 3000  # the last MLP at the prompts' tokens
    assert work.flops(NETWORK) == pytest.approx(matrices + attention - unread)

    options = RewardOptions(lr=1e-3, num_epochs=2, batch_tokens=1000)
    work = workload.reward("reward@0", NETWORK, ROWS, "train", options, share=0.5)
    assert tokens(work) == {"comparisons": 3000, "SFT replies": 1500, "dev pairs": 3000}
    biased = workload.reward("judge", NETWORK, ROWS, "judge", options.model_copy(update={"length_bias": "residual"}))
    assert tokens(biased)["comparisons, for their length"] == 3000


def test_pairs_and_feedback():
    dpo = tokens(workload.align(NETWORK, ROWS, algorithm("dpo", num_epochs=2), 1, 40))
    assert dpo == {"log-probs of the reference": 3000, "pairs": 6000}
    assert tokens(workload.align(NETWORK, ROWS, algorithm("simpo"), 1, 40)) == {"pairs": 3000}
    kto = tokens(workload.align(NETWORK, ROWS, algorithm("kto", num_epochs=2), 1, 40))
    assert kto == {
        "log-probs of the reference": 3000,
        "log-probs of the reference, mismatched": 3000,
        "log-probs of the policy, mismatched": 6000,
        "replies": 6000,
    }
    # Fifty pairs of rankings of four are 33 replies, and a verdict on both replies of each.
    ranked = replace(ROWS, pairs={fold: Lengths(50, 10, 20, 4 / 6) for fold in FOLDS})
    dpo = tokens(workload.align(NETWORK, ranked, algorithm("dpo", num_epochs=2), 1, 40))
    assert dpo == pytest.approx({"log-probs of the reference": 1000, "pairs": 2000})
    kto = tokens(workload.align(NETWORK, ranked, algorithm("kto", num_epochs=2), 1, 40))
    assert kto == pytest.approx(
        {
            "log-probs of the reference": 1000,
            "log-probs of the reference, mismatched": 3000,
            "log-probs of the policy, mismatched": 6000,
            "replies": 2000,
        }
    )
    weights = [workload.align(n, ROWS, algorithm("dpo"), 1, 40).memory["weights"] for n in (NETWORK, ADAPTED)]
    assert weights == [2 * 4 * SHAPE.parameters, 4 * (SHAPE.parameters + SHAPE.lora_parameters(2))]
    assert workload.align(NETWORK, ROWS, algorithm("orpo"), 1, 40).memory["weights"] == 4 * SHAPE.parameters


def test_rollouts():
    """3 rollouts of 8 prompts, cut after 15 tokens, 2 members; two passes of updates, of policy and critic each."""
    options = {"num_steps": 3, "prompts_per_step": 8, "num_updates": 2, "num_minibatches": 2}
    work = workload.align(NETWORK, ROWS, algorithm("ppo", **options, held_out_every=None, patience=None), 2, 15)
    said = 3 * 8 * 25
    assert tokens(work) == {
        "replies": said,
        "scores": 2 * said,
        "log-probs of the reference": said,
        "values of the critic": said,
        "updates of the policy": 2 * said,
        "updates of the critic": 2 * said,
    }
    calls = {each.what: each.calls for each in work.passes}
    assert calls["replies"] == 3 * 15
    assert calls["updates of the policy"] == 3 * 2 * 2
    # policy, reference, critic and two reward models; policy and critic learn
    assert work.memory["weights"] == 5 * 4 * SHAPE.parameters
    assert work.memory["optimizer"] == 3 * work.memory["gradients"] == 3 * 2 * 4 * SHAPE.parameters
    alone, shared = (
        workload.align(ADAPTED, ROWS, algorithm("ppo", **options), 2, 15, one_base).memory for one_base in (False, True)
    )
    assert alone["weights"] - shared["weights"] == 3 * 4 * SHAPE.parameters  # two members and the critic
    assert shared["optimizer"] < alone["optimizer"] / 2
    held_out = workload.align(NETWORK, ROWS, algorithm("ppo", **options, held_out_every=1, held_out_prompts=30), 2, 15)
    assert [each.tokens for each in held_out.passes if each.what == "replies"] == [said, 3 * 30 * 25]


@pytest.mark.parametrize(
    ("name", "share"),
    [("ppo", 1), ("reinforce", 1), ("rloo", 1), ("grpo", 1), ("best_of_n", 1 / 5), ("online_dpo", 2 / 5)],
)
def test_an_algorithm_says_how_many_replies_it_learns_from(name, share):
    changes = {} if name == "ppo" else {"replies_per_prompt": 5}
    assert workload.kept_share(algorithm(name, **changes)) == pytest.approx(share)


@pytest.mark.parametrize("name", sorted(algorithms.known()))
def test_every_algorithm_can_be_estimated(name):
    work = workload.align(NETWORK, ROWS, algorithm(name), 1, 40)
    assert work.tokens > 0
    assert work.peak_bytes > 2 * work.memory["gradients"] > 0


def test_sampling_and_evaluation():
    """Two folds of 10 prompts, 4 replies; three models say 1 reply to 35 prompts and 3 to 5, scored by two."""
    work = workload.collect(NETWORK, ROWS, {"train": 10, "judge": 10, "dev": 0}, 4, 15)
    assert [each.tokens for each in work.passes] == [40 * 25, 40 * 25]
    work = workload.evaluate(NETWORK, ROWS, models=3, scorers=2, samples=(1, 3), max_new_tokens=100)
    replies = 3 * (35 + 5 + 2 * 5)
    assert [each.sequences for each in work.passes] == [replies, 2 * replies, 2 * replies * 2 / 3, 2 * 2 * 50]
    work = workload.evaluate(NETWORK, ROWS, 2, 2, (1, 1), 100, implicit=True)
    assert work.passes[-1].sequences == 2 * 2 * 50  # policy and SFT, both replies
    # 1024 at once at most, and a batch goes on for as long as any reply may
    assert sample("", NETWORK, Lengths(1025, 10, 20), 30).calls == 60


def test_memory_of_a_step_is_what_autograd_keeps(tiny_model):
    """A real step of SFT: the body's activations and the logits of the replies."""
    examples = [Example([5] * 10, [7] * 20)] * 8
    step = train("", Lengths(8, 10, 20), 240)
    shape = model_size.from_config(tiny_model.config.to_dict())
    kept, alive = {}, []
    weights = {parameter.untyped_storage().data_ptr() for parameter in tiny_model.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = token_logprobs(tiny_model, examples).sum()
    assert loss.requires_grad
    assert memory(Network(shape, 4), 1, step=step)["activations"] == pytest.approx(sum(kept.values()), rel=0.1)


def test_recomputed_layers_and_4_bit_weights():
    """Activations fall to one layer's and the inputs of all; the body is computed once more. 4.5 bits a weight."""
    step = train("", Lengths(8, 10, 20), 240, read="values")
    plain, saving = (Network(SHAPE, 4, recomputes_layers=recomputes) for recomputes in (False, True))
    kept = [memory(network, 1, step=step)["activations"] for network in (plain, saving)]
    whole = kept[0] + model_size.unread_bytes(SHAPE, 80, 4)
    assert kept[1] == pytest.approx(whole / 2 + 240 * 2 * 32 * 4)
    assert step.flops(saving) / step.flops(plain) == pytest.approx(4 / 3)
    layers = SHAPE.num_layers * SHAPE.layer_weights
    small = memory(Network(SHAPE, 2, lora_rank=2, quantized=True), 1, step=step)["weights"]
    assert small == 2 * (SHAPE.parameters - layers) + layers * 4.5 / 8 + 4 * SHAPE.lora_parameters(2)


def test_seconds():
    """16 GFLOP at 0.3 x 96 GFLOP/s; a token a time is bound by reading the weights."""
    one = cpu(1, 8e9)
    step = train("", Lengths(100, 10, 20), 3000, read="values")
    compute = step.flops(NETWORK) / (0.3 * 96e9)
    assert one.seconds(step, NETWORK) == pytest.approx(compute + 3 * 2 * 1e-3)
    assert cpu(2, 8e9).seconds(step, NETWORK) == pytest.approx(compute / 2 + 3 * 2 * 1e-3)
    qwen = model_size.from_config({
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    })  # fmt: skip
    drawn = sample("", Network(qwen, 2), Lengths(1, 10, 200), 200)
    read = 200 * 2 * qwen.parameters / 3.35e12
    assert GPUS["h100"].seconds(drawn, Network(qwen, 2)) == pytest.approx(read + 200 * 24 * 1e-3)


@pytest.mark.parametrize(
    ("device", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", None),
    ],
)
def test_a_device_is_known_by_its_name(device, known):
    assert of_device(device) == known
