"""Several processes (ranks) for one training stage on this machine: `PLUMBLINE_PROCESSES` of them, one for each GPU.

`python -m tasks.sft` then starts itself so many times, waits, and ends as they end. It holds the stage's lock and
computes nothing; rank 0 writes what the stage writes, the others read only. No port is opened: the ranks meet in a
file, and talk over the loopback device. A rank ends with its starter, also when that is killed; when one fails, the
others are ended, and the one that failed first is what the stage failed of.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

COUNT = "PLUMBLINE_PROCESSES"  # no parameter: it changes no result beyond rounding, and a parameter enters hashes
SHARD = "PLUMBLINE_SHARD"  # 1: each process keeps a part of the model that it trains (tasks/rlhf/sharding.py)
_STARTER = "PLUMBLINE_RANK_OF"  # its process id, where this process is a rank
_MEETING = "PLUMBLINE_MEETING"  # the file in which ranks find each other
SECONDS_TO_END = 2.0  # after one failed: time for another to say why, if it was the cause
CRASHED = 1


class RankError(Exception):
    """A rank failed: its exit status, its message, and its traceback where it left one."""

    def __init__(self, status: int, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.status, self.trace = status, trace


def wanted() -> int:
    """How many processes a training stage is to have. ValueError for bad environment variables."""
    text = os.environ.get(COUNT, "1")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{COUNT} = {text!r}: must be a number of processes, 1 or more; leave it out for one")
    if _sharded() and int(text) == 1:
        raise ValueError(f"{SHARD} = 1: there is nothing to share with one process; set {COUNT} to 2 or more")
    return int(text)


def _sharded() -> bool:
    text = os.environ.get(SHARD, "0")
    if text not in ("0", "1"):
        raise ValueError(f"{SHARD} = {text!r}: must be 1, to shard models over the processes, or 0")
    return text == "1"


def is_rank() -> bool:
    return _STARTER in os.environ


def is_first() -> bool:
    """Whether this process writes: rank 0, or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"


@contextmanager
def joined() -> Iterator[None]:
    """Be a rank: with the others, until all have come to the end."""
    if os.getppid() != int(os.environ[_STARTER]):  # it ended before this process could ask to end with it
        sys.exit(128 + signal.SIGKILL)
    from tasks.rlhf import ranks

    index, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    ranks.join(index, count, Path(os.environ[_MEETING]), _sharded())
    yield
    ranks.leave()


def run(count: int, folder: Path) -> None:
    """Run this process's module as `count` ranks, which leave what went wrong in `folder`. Raises RankError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as meeting:
        environment = {**os.environ, _STARTER: str(os.getpid()), _MEETING: f"{meeting}/ranks", **_threads(count)}
        environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        ranks = [
            subprocess.Popen(_command(), env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        try:
            codes = _wait(ranks)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
    if any(codes):
        raise _cause(codes, folder)


def leave_word(folder: Path, status: int, message: str) -> None:
    """Say, as a rank, why this process ends; called while the error is handled."""
    word = {"status": status, "message": message, "traceback": traceback.format_exc(), "time": time.time()}
    staged = folder / f".{os.environ['RANK']}"
    staged.write_text(json.dumps(word), encoding="utf-8")
    staged.replace(folder / f"{os.environ['RANK']}.json")


def _command() -> list[str]:
    """This process, once more."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, "-m", spec.name, *sys.argv[1:]] if spec else [sys.executable, *sys.argv]


def _threads(count: int) -> dict[str, str]:
    """The processes share the cores that one would have."""
    names = ("PLUMBLINE_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return {name: str(max(1, int(os.environ[name]) // count)) for name in names if name in os.environ}


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit statuses, once all have ended or one has failed; None: still running then."""
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in ranks]
        if None not in codes or time.monotonic() > deadline:
            return codes
        if any(codes):
            deadline = min(deadline, time.monotonic() + SECONDS_TO_END)
        time.sleep(0.05)


def _cause(codes: Sequence[int | None], folder: Path) -> RankError:
    """Of several failures the first: the others mostly complain that it is gone."""
    words = {}
    for rank in range(len(codes)):
        path = folder / f"{rank}.json"
        if path.is_file():
            words[rank] = json.loads(path.read_text(encoding="utf-8"))
    clear = {rank: word for rank, word in words.items() if word["status"] != CRASHED}
    killed = [rank for rank, code in enumerate(codes) if code == -signal.SIGKILL]
    if clear or (words and not killed):
        rank, word = min((clear or words).items(), key=lambda item: item[1]["time"])
        return RankError(word["status"], word["message"], word["traceback"])
    rank = killed[0] if killed else next(rank for rank, code in enumerate(codes) if code)
    how = "was killed (out of memory?)" if killed else f"ended without a word, status {codes[rank]}"
    return RankError(CRASHED, f"rank {rank} of {len(codes)} {how}; the others were ended")
