"""Several processes learn what one learns: the same curves, the same weights on each, and they go on after a kill."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.rlhf.ranks import BUCKET, Ranks, _buckets, current
from tests.tasks.rlhf import ranks_at_work

ROOT = Path(__file__).parents[3]


def launch(module, *arguments, count=2, seconds=300.0):
    """Run a module as so many ranks; what they said where one failed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {name: str(value) for name, value in place.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", module, *arguments]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(told)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("tests.tasks.rlhf.ranks_at_work", str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return {name: rows for name, (rows, _) in ranks_at_work.all_runs().items()}


@pytest.mark.parametrize("name", ranks_at_work.RUNS)
def test_two_processes_have_the_curve_of_one(name, two, alone):
    assert len(alone[name]) >= 3
    for found, expected in zip(two[0]["curves"][name], alone[name], strict=True):
        assert found.keys() == expected.keys()
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_all_ranks_hold_the_same_weights_and_figures(two):
    first, second = two
    assert (first["group"], second["group"]) == ([0, 2], [1, 2])
    assert first["weights"] == second["weights"]
    assert first["curves"] == second["curves"]
    assert first["draws"] == second["draws"]


def test_every_rank_draws_its_own_replies(two):
    """The same four prompts: two on each rank, whose replies are not those of the other."""
    replies = two[0]["draws"]
    assert len(replies) == 16
    assert replies[:8] != replies[8:]


def test_ranks_go_on_after_an_interruption(two):
    for rank in two:
        equal, step, _ = rank["resumed"]
        assert equal
        assert step == 2
    assert two[0]["resumed"] == two[1]["resumed"]


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
