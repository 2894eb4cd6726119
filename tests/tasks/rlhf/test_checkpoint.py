"""Checkpoints: what goes on after an interruption ends with the same bits; a torn or foreign state is never read."""

import contextlib
import copy
import itertools
import os
import pickle
import random
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.adapters.delivery import read_lines
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.rlhf import algorithms, checkpoint, models
from tasks.rlhf.batch import Example, LossOutput
from tasks.rlhf.checkpoint import Checkpoints
from tasks.rlhf.logprobs import reply_nll, reply_sums, token_logprobs
from tasks.rlhf.options import DatasetOptions, LoraOptions
from tasks.rlhf.train_on_dataset import train_on_dataset
from tasks.rlhf.train_on_pairs import train_on_pairs
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.rlhf.test_loops import data, pairs
from tests.tasks.rlhf.test_train_on_rollouts import POLICIES, PROMPTS, learner, likes_sevens, section

STEPS = 8
OPTIONS = DatasetOptions(num_epochs=2, lr=1e-3, batch_tokens=96)
WALL_CLOCK = ("seconds", "phases", "telemetry")


class Interrupted(Exception):  # noqa: N818
    pass


class Tracker(FileTracker):
    """Interrupts the run when it logs step `at`: after the optimiser's step, before its checkpoint."""

    at = 0

    def log(self, step, total, **metrics):
        if step == self.at:
            raise Interrupted
        super().log(step, total, **metrics)


def kept(folder):
    return sorted(folder.glob("*/*.pt"))


def last_state(folder):
    """Everything in the newest checkpoint but what the clock wrote."""
    (path,) = kept(folder)
    state = torch.load(path, weights_only=True)
    for part in ("tracker", "progress"):
        state["parts"][part] = {k: v for k, v in state["parts"][part].items() if k not in WALL_CLOCK}
    return state


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def noisy(model):
    """A loss that draws from every global generator, so that one that is not restored shows."""

    def loss(rows):
        drawn = torch.rand(()).item() + np.random.random() + random.random()
        output = reply_nll(model)(rows)
        return type(output)(output.loss_B * (1 + drawn), {"drawn": torch.full((len(rows),), drawn)})

    return loss


def train(model, folder, root, at=0, seconds=0.0, key="k", loss=noisy):
    """A run in `root` that is interrupted when it logs step `at`, or goes to its end; its tracker."""
    tracker = Tracker("sft", root, Checkpoints(folder, lambda: key, seconds))
    tracker.at = at
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    try:
        train_on_dataset(model, data(), loss(model), lambda r: len(r.reply_ids), OPTIONS, 0, tracker)
    finally:
        tracker.close()
    return tracker


@pytest.fixture
def whole(tiny_model, tmp_path):
    """What a run without interruption leaves: its last state and curve."""
    train(copy.deepcopy(tiny_model), tmp_path / "whole", tmp_path)
    return last_state(tmp_path / "whole")


def interrupt(tiny_model, tmp_path, *steps, **settings):
    for at in steps:
        with pytest.raises(Interrupted):
            train(copy.deepcopy(tiny_model), tmp_path / "kept", tmp_path, at, **settings)


def resume(tiny_model, tmp_path, **settings):
    return train(copy.deepcopy(tiny_model), tmp_path / "kept", tmp_path, **settings)


@pytest.mark.parametrize("steps", [(1,), (2,), (3, 4, 7), (STEPS,)])
def test_an_interrupted_run_ends_like_one_that_was_not(tiny_model, tmp_path, whole, steps):
    """Weights, optimiser, scheduler, generators, cursor and curve, in whatever step it was interrupted."""
    interrupt(tiny_model, tmp_path, *steps)
    tracker = resume(tiny_model, tmp_path)
    assert tracker.checkpoints.resumed_from == (steps[-1] - 1 or None)
    found = last_state(tmp_path / "kept")
    assert found["parts"]["progress"]["step"] == STEPS == max(tracker.curve)
    for name, state in whole["parts"].items():
        assert same(state, found["parts"][name]), name
    assert same(whole["random"], found["random"])


def test_telemetry_goes_on_without_gap_or_repetition(tiny_model, tmp_path):
    interrupt(tiny_model, tmp_path, 5)
    resume(tiny_model, tmp_path)
    lines, _ = read_lines(tmp_path / "runs/sft/telemetry.jsonl")
    assert [line["step"] for line in lines if "loss" in line["metrics"]] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "tokens_per_second" in line["metrics"]] == list(range(1, STEPS + 1))
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_steps_after_the_last_checkpoint_are_done_again(tiny_model, tmp_path, whole, monkeypatch):
    """On a clock that goes on by 1 s per look, checkpoints 3 s apart fall on steps 3 and 6."""
    looks = itertools.count()
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    monkeypatch.setattr(checkpoint, "MAX_SHARE", 1.0)
    interrupt(tiny_model, tmp_path, 6, seconds=3.0)
    tracker = resume(tiny_model, tmp_path, seconds=3.0)
    assert tracker.checkpoints.resumed_from == 3
    assert tracker.curve == whole["parts"]["tracker"]["curve"]


def test_figures_not_yet_logged_are_kept(tmp_path):
    """Of 410 steps every second one is logged, as a mean over two: the run is interrupted between them."""
    rows = [Example([number], [2]) for number in range(410)]

    class At203(Checkpoints):
        def save(self, step, parts):
            if step == 203:
                super().save(step, parts)

    def run(folder, most):
        torch.manual_seed(0)
        module, calls = linear(1.0), itertools.count(1)

        def loss(batch):
            if next(calls) > most:
                raise Interrupted
            return LossOutput(module(torch.rand(len(batch), 2)).sum(1) ** 2)

        tracker = FileTracker("sft", tmp_path, At203(tmp_path / folder, lambda: "k"))
        options = DatasetOptions(num_epochs=1, lr=1e-3, batch_tokens=2)
        with contextlib.closing(tracker):
            train_on_dataset(module, rows, loss, lambda row: 1.0, options, 0, tracker)
        return tracker.curve

    whole = run("whole", 410)
    assert list(whole)[:2] == [2, 4]
    with pytest.raises(Interrupted):
        run("kept", 205)
    assert run("kept", 410) == whole


def test_only_the_last_state_is_kept_and_nothing_after_success(tiny_model, tmp_path):
    tracker = train(copy.deepcopy(tiny_model), tmp_path / "kept", tmp_path)
    (path,) = kept(tmp_path / "kept")
    assert path.name.startswith(f"001-{STEPS:09}-")
    tracker.checkpoints.clear()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty"])
def test_a_damaged_state_is_left_out_with_a_notice(tiny_model, tmp_path, whole, damage, capsys):
    interrupt(tiny_model, tmp_path, 5)
    (path,) = kept(tmp_path / "kept")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-100], "longer": path.read_bytes() + b"x", "empty": b""}[damage])
    tracker = resume(tiny_model, tmp_path)
    assert f"checkpoint: {path} is damaged and was left out" in capsys.readouterr().err
    assert tracker.checkpoints.resumed_from is None
    assert same(whole["parts"]["model"], last_state(tmp_path / "kept")["parts"]["model"])


def test_the_state_before_serves_where_the_last_one_is_damaged(tiny_model, tmp_path, whole):
    interrupt(tiny_model, tmp_path, 3)
    (older,) = kept(tmp_path / "kept")
    content = older.read_bytes()
    interrupt(tiny_model, tmp_path, 5)
    (newer,) = kept(tmp_path / "kept")
    newer.write_bytes(b"torn")
    older.write_bytes(content)  # as after a kill between the rename and the removal of the old one
    assert resume(tiny_model, tmp_path).checkpoints.resumed_from == 2
    assert same(whole["parts"]["model"], last_state(tmp_path / "kept")["parts"]["model"])


def test_another_key_is_never_read_and_its_state_is_removed(tiny_model, tmp_path):
    interrupt(tiny_model, tmp_path, 5, key="other")
    tracker = resume(tiny_model, tmp_path, key="mine")
    assert tracker.checkpoints.resumed_from is None
    assert [path.parent.name for path in kept(tmp_path / "kept")] == ["mine"]


def test_the_key_is_that_of_the_beginning(tmp_path):
    """Inputs or code that are edited while a training runs must not lend their name to what it started from."""
    keys = iter(["as it was", "edited"])
    checkpoints = Checkpoints(tmp_path, lambda: next(keys))
    module = torch.nn.Linear(2, 2)
    checkpoints.restore({"module": module})
    checkpoints.save(1, {"module": module})
    checkpoints.save(2, {"module": module})
    assert [path.parent.name for path in kept(tmp_path)] == ["as it was"]


def linear(value):
    module = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(module.weight, value)
    return module


def begun(folder, module):
    checkpoints = Checkpoints(folder, lambda: "k")
    checkpoints.restore({"module": module})
    return checkpoints


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_kill_before_the_rename_leaves_the_old_state(tmp_path, monkeypatch, call):
    checkpoints = begun(tmp_path, linear(0.0))
    checkpoints.save(1, {"module": linear(1.0)})

    def killed(*arguments):
        raise Interrupted

    monkeypatch.setattr(*{"replace": (type(tmp_path), "replace"), "fsync": (os, "fsync")}[call], killed)
    with pytest.raises(Interrupted):
        checkpoints.save(2, {"module": linear(2.0)})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("k/.*")] == [".staged"]
    module = linear(0.0)
    assert begun(tmp_path, module).resumed_from == 1
    assert module.weight.eq(1.0).all()
    assert not list(tmp_path.glob("k/.*"))


def test_staged_synced_renamed_and_the_folder_synced(tmp_path, monkeypatch):
    """In this order: a power cut may lose the newest state, but never shows half of one."""
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")) or sync(handle))
    monkeypatch.setattr(type(tmp_path), "replace", lambda old, new: done.append("rename") or replace(old, new))
    begun(tmp_path, linear(0.0)).save(1, {"module": linear(1.0)})
    assert done == [str(tmp_path / "k/.staged"), "rename", str(tmp_path / "k")]


def test_killed_writers_leave_whole_states_only(tmp_path):
    """SIGKILL at 30 random moments of a process that does nothing but save."""
    rng = random.Random(7)
    for number in range(1, 31):
        child = os.fork()
        if child == 0:
            try:
                checkpoints = begun(tmp_path, linear(0.0))
                for step in itertools.count(number * 1000):
                    checkpoints.save(step, {"module": linear(float(step))})
            finally:
                os._exit(1)
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(f"k/001-{number:06}*.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        module = linear(-1.0)
        step = begun(tmp_path, module).resumed_from
        assert step >= number * 1000
        assert module.weight.eq(step).all()


def test_a_full_disk_ends_the_checkpoint_not_the_training(tiny_model, tmp_path, whole, monkeypatch, capsys):
    real = os.fsync

    def full(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".staged"):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    tracker = resume(tiny_model, tmp_path)
    assert tracker.curve == whole["parts"]["tracker"]["curve"]
    said = capsys.readouterr().err
    assert "none kept after step 1, training goes on: [Errno 28] No space left on device; free some space" in said
    assert not list((tmp_path / "kept").glob("*/.*"))


@pytest.mark.parametrize("size", [1, 10**6])
def test_the_cause_of_a_failed_write_is_named(size):
    """torch.save itself would speak of positions in a file."""
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint._dump({"a": torch.zeros(size)}, Path("/dev/full"))


def test_saving_takes_at_most_its_share_of_the_time(tmp_path, monkeypatch):
    """A save takes 3 s of a clock on which a step takes 1 s: at 2%, 150 s pass before the next one."""
    now = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    saved = []

    def write(self, step, parts):
        now[0] += 3.0
        saved.append(step)

    monkeypatch.setattr(Checkpoints, "_write", write)
    checkpoints = Checkpoints(tmp_path, lambda: "k", seconds=30.0)
    checkpoints.restore({})
    for step in range(1, 401):
        now[0] += 1.0
        checkpoints.save(step, {})
    assert saved == [30, 180, 330]


def test_adapters_are_kept_without_the_model_below_them(tiny_model, tmp_path):
    lora = LoraOptions(rank=2, alpha=4.0, dropout=0.2)
    torch.manual_seed(0)
    adapted = models.add_lora(copy.deepcopy(tiny_model), lora)

    def run(folder, at=0):
        model = copy.deepcopy(adapted).train()
        train(model, tmp_path / folder, tmp_path, at, loss=reply_nll)
        return last_state(tmp_path / folder)["parts"]["model"]

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("kept", at=4)
    assert same(whole, run("kept"))  # with dropout: its generator went on, too
    assert whole
    assert all("lora_" in name for name in whole)


def test_loops_of_one_stage_do_not_take_each_others_state(tiny_model, tmp_path):
    """The second loop is interrupted; again from the start, the first goes on from its own end."""

    def two(at):
        checkpoints = Checkpoints(tmp_path / "kept", lambda: "k")
        found = []
        for number, interrupted in enumerate((0, at)):
            model = copy.deepcopy(tiny_model)
            tracker = Tracker("sft", tmp_path / str(number), checkpoints)
            tracker.at = interrupted
            options = OPTIONS.model_copy(update={"lr": 1e-3 * (number + 1)})
            with contextlib.closing(tracker):
                train_on_dataset(model, data(), reply_nll(model), lambda r: 1.0, options, 0, tracker)
            found.append((checkpoints.resumed_from, model.state_dict()))
        checkpoints.clear()
        return found

    (_, first), (_, second) = two(0)
    with pytest.raises(Interrupted):
        two(5)
    (from_first, first_again), (from_second, second_again) = two(0)
    assert (from_first, from_second) == (STEPS, 4)
    assert same(first, first_again)
    assert same(second, second_again)


def test_a_preference_algorithm_goes_on(tiny_model, tmp_path):
    section = {"beta": 0.1, "lr": 1e-3, "num_epochs": 4, "batch_tokens": 256, "sft_weight": 0.1}
    reference = copy.deepcopy(tiny_model)

    @torch.no_grad()
    def reference_logprobs(examples):
        return token_logprobs(reference, examples)

    def run(folder, at=0):
        policy = copy.deepcopy(tiny_model)
        tracker = Tracker("align", tmp_path, Checkpoints(tmp_path / folder, lambda: "k"))
        tracker.at = at
        with contextlib.closing(tracker):
            algorithm = algorithms.load("dpo", section)
            train_on_pairs(policy, partial(reply_sums, reference_logprobs), pairs(), algorithm, 0, tracker)
        return policy.state_dict(), tracker.curve

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("kept", at=5)
    assert same(whole, run("kept"))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_algorithm_goes_on(name, tiny_model, tmp_path):
    """Critic, both optimisers, KL controller, prompts left to draw, patience: interrupted in the third rollout."""
    changes = {"num_steps": 4, "kl_target": 1.0, "kl_horizon": 50, "held_out_every": 1, "num_updates": 1}

    def run(folder, at=0):
        torch.manual_seed(0)
        algorithm, run = learner(tiny_model, likes_sevens, name, section(**changes))
        tracker = Tracker("align", tmp_path, Checkpoints(tmp_path / folder, lambda: "k"))
        tracker.at = at
        with contextlib.closing(tracker):
            train_on_rollouts(run, PROMPTS, PROMPTS[:4], algorithm.options, 0, tracker)
        return last_state(tmp_path / folder)

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("kept", at=3)
    again = run("kept")
    for part, state in whole["parts"].items():
        assert same(state, again["parts"][part]), part
    assert same(whole["random"], again["random"])
    assert whole["parts"]["state"]["coef"]["value"] != 0.02
    assert whole["parts"]["state"]["patience"]["best_score"] > -float("inf")
    assert whole["parts"]["state"]["draws"]["left"]


def test_a_run_that_stops_early_stops_again_where_it_did(tiny_model, tmp_path):
    """The last step of such a run is not kept: what ends it would be forgotten."""

    def run():
        algorithm, run = learner(tiny_model, likes_sevens, "grpo", section(num_steps=9, lr=1e-2, max_kl=0.01))
        tracker = FileTracker("align", tmp_path, Checkpoints(tmp_path / "kept", lambda: "k"))
        with contextlib.closing(tracker):
            return train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, tracker), tracker.curve

    stop, curve = run()
    assert stop.startswith("max_kl: ")
    assert run() == (stop, curve)


def test_generators_are_kept(tmp_path):
    parts = {"numpy": np.random.default_rng(3), "torch": torch.Generator().manual_seed(3)}
    checkpoints = Checkpoints(tmp_path, lambda: "k")
    checkpoints.restore(parts)
    parts["numpy"].random(5)
    torch.rand(5, generator=parts["torch"])
    checkpoints.save(1, parts)

    def draw(parts):
        return parts["numpy"].random(), torch.rand(1, generator=parts["torch"]).item(), random.random()

    expected = draw(parts)
    fresh = {"numpy": np.random.default_rng(0), "torch": torch.Generator()}
    Checkpoints(tmp_path, lambda: "k").restore(fresh)
    assert draw(fresh) == expected


def test_the_attributes_of_an_object_are_kept(tmp_path):
    def new(value, text, draws):
        return SimpleNamespace(value=value, text=text, inner=SimpleNamespace(draws=np.random.default_rng(draws)))

    checkpoints = Checkpoints(tmp_path, lambda: "k")
    checkpoints.restore({})
    checkpoints.save(1, {"state": new([1, 2.5], "why", 3)})
    fresh = new([], None, 0)
    inner = fresh.inner
    Checkpoints(tmp_path, lambda: "k").restore({"state": fresh})
    assert (fresh.value, fresh.text) == ([1, 2.5], "why")
    assert fresh.inner is inner
    assert inner.draws.random() == np.random.default_rng(3).random()
    with pytest.raises(TypeError):  # at the first save, not when it is needed
        checkpoints.save(2, {"state": SimpleNamespace(values=np.zeros(2))})


def test_a_state_cannot_run_code(tmp_path):
    """Even one whose digest is right: it may have been made by somebody else."""

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "marker"),))

    folder = tmp_path / "kept/k"
    folder.mkdir(parents=True)
    torch.save({"parts": Payload(), "random": {}}, folder / "x.pt")
    path = folder / "x.pt"
    path.replace(folder / f"001-000000001-{content_hash(path)}.pt")
    with pytest.raises(pickle.UnpicklingError):
        begun(tmp_path / "kept", linear(0.0))
    assert not (tmp_path / "marker").exists()


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.NONE.restore({"module": linear(0.0)})
    checkpoint.NONE.save(1, {"module": linear(0.0)})
    checkpoint.NONE.clear()
    assert not list(tmp_path.iterdir())
