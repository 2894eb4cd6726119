"""Several processes learn what one learns: the same curves, the same weights on each, and they go on after a kill."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from tasks.rlhf.ranks import BUCKET, Ranks, _buckets, current
from tests.tasks.rlhf import ranks_at_work, tiny

ROOT = Path(__file__).parents[3]


TOLERANCE = 1e-5  # of a loss: what sums in another order, and optimisers that divide by small numbers, make of it


def launch(module, *arguments, count=2, seconds=300.0):
    """Run a module as so many ranks; what they said where one failed."""
    processes = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {name: str(value) for name, value in place.items()}
        environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-m", module, *arguments]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two ranks have been at work."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("tests.tasks.rlhf.ranks_at_work", str(folder))
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """What each of them saw."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return {name: rows for name, (rows, _) in ranks_at_work.all_runs().items()}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("curves", name) for name in ranks_at_work.RUNS), *(("sharded", name) for name in ranks_at_work.SHARDED)],
)
def test_two_processes_have_the_curve_of_one(kind, name, two, alone):
    assert len(alone[name]) >= 3
    for step, (found, expected) in enumerate(zip(two[0][kind][name], alone[name], strict=True)):
        assert found.keys() == expected.keys()
        if name == "kto" and step == 0:  # policy = reference: on which side of the point a row is, rounding says
            assert abs(expected["chosen_log_ratio"]) + abs(expected["rejected_log_ratio"]) < 1e-5
            found, expected = (
                {key: row[key] for key in row if key != "implicit_accuracy"} for row in (found, expected)
            )
        assert found["loss"] == pytest.approx(expected["loss"], abs=TOLERANCE)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_all_ranks_hold_the_same_weights_and_figures(two):
    first, second = two
    assert (first["group"], second["group"]) == ([0, 2], [1, 2])
    assert first["weights"] == second["weights"]
    assert first["curves"] == second["curves"]
    assert first["draws"] == second["draws"]
    assert first["sharded"] == second["sharded"]
    assert first["sharded_weights"] == second["sharded_weights"]


def test_every_rank_draws_its_own_replies(two):
    """The same four prompts: two on each rank, whose replies are not those of the other."""
    replies = two[0]["draws"]
    assert len(replies) == 16
    assert replies[:8] != replies[8:]


def test_dropout_differs_from_rank_to_rank_and_step_to_step(two):
    seeds = [seed for rank in two for seed in rank["seeds"]]
    assert len(seeds) >= 6
    assert len(set(seeds)) == len(seeds)


def test_ranks_go_on_after_an_interruption(two):
    """With whole models, and with shards of one."""
    for equal, step, _ in [*two[0]["resumed"], *two[1]["resumed"]]:
        assert equal
        assert step == 2
    assert two[0]["resumed"] == two[1]["resumed"]


def test_a_shard_is_half_of_the_model_and_a_saved_one_is_whole(folder, two):
    from transformers import AutoModelForCausalLM

    (size,) = {sum(p.numel() for p in tiny.language_model().parameters())}
    assert [rank["held"] for rank in two] == [[size // 2]] * 2
    saved = AutoModelForCausalLM.from_pretrained(folder / "saved")
    assert zlib.crc32(ranks_at_work.weights(saved).numpy().tobytes()) == two[0]["sharded_weights"]["sft"]


def test_what_a_shard_cannot_do_is_refused(two):
    on_feedback, on_rollouts = two[0]["refused"]
    assert on_feedback.startswith("PLUMBLINE_SHARD: align.algorithm = 'kto' needs the whole model on every GPU")
    assert on_rollouts.startswith("PLUMBLINE_SHARD: sampling replies needs the whole model on every GPU")


def test_shares_and_blocks_hold_every_item_once():
    items = list(range(7))
    ranks = [Ranks(index, 3) for index in range(3)]
    assert [rank.share(items) for rank in ranks] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [rank.block(items) for rank in ranks] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [rank.block([5]) for rank in ranks] == [[], [], [5]]


def test_alone_nothing_happens():
    rank = current()
    assert (rank, rank.is_first) == (Ranks(0, 1), True)
    assert rank.add({"a": 1.5}) == {"a": 1.5}
    assert rank.gather("x") == ["x"]
    state = torch.get_rng_state()
    rank.reseed(1, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_buckets_hold_one_number_type_and_bound_memory():
    sizes = [(BUCKET - 1, torch.float32), (1, torch.float32), (1, torch.float32), (2, torch.bfloat16)]
    tensors = [torch.zeros(1, dtype=kind).expand(size) for size, kind in sizes]
    assert [[t.numel() for t in bucket] for bucket in _buckets(tensors)] == [[BUCKET - 1, 1], [1], [2]]
