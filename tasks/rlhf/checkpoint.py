"""What a loop needs to go on after a kill -9, to the bit: kept complete or not at all, and only for the same work.

`data/checkpoints/<stage>/<key>/<loop>-<step>-<sha256 of the file>.pt`. The key says what a state belongs to
(parameters, inputs, code); what lies under another key is never read. torch is imported late: every stage makes a
`Checkpoints`, few train.
"""

import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from tasks.files import sync
from tasks.hashes import content_hash
from tasks.rlhf import ranks

# Writing takes at most this share of the time: after a slow save the next one is further away.
MAX_SHARE = 0.02
_PLAIN = (bool, int, float, str, list, dict, type(None))


class Checkpoints:
    """The last state of each training loop of one stage.

    A *part* is anything whose state a loop changes: a module (of which only what is trainable is kept), a random
    generator, an object with `state_dict` and `load_state_dict`, or any other object, of which every attribute is a
    part or a plain value. The global random generators are always kept.
    """

    def __init__(self, folder: Path | None = None, key: Callable[[], str] = str, seconds: float = 0.0) -> None:
        """Keep a state when `seconds` have passed (0: after every step); without a folder, keep nothing."""
        self._stage, self._make_key, self._seconds = folder, key, seconds
        self._folder = Path()  # of this stage and key, once a loop has begun
        self._loop = 0  # loops of a stage are told apart by their turn
        self._due = 0.0
        self.resumed_from: int | None = None  # the step that a loop went on after

    def restore(self, parts: Mapping[str, Any]) -> None:
        """Called once before a loop: bring all parts to where an interrupted run left them, else change nothing.

        Of several processes (ranks.py) the first looks, and all go on from what it found.
        """
        if self._stage is None:
            return
        self._loop += 1
        group = ranks.current()
        found = group.from_first(self._newest() if group.is_first else None)
        if found is not None:
            path, self.resumed_from = found
            _restore(parts, path)
            if group.is_first:
                _say(f"going on after step {self.resumed_from}")
        self._due = time.monotonic() + self._seconds

    def _newest(self) -> tuple[Path, int] | None:
        """The last whole state of this loop, and the step that it was kept after."""
        assert self._stage is not None
        # Now, not at the first save: whoever edits inputs or code while this runs must not get them mixed.
        self._folder = self._stage / self._make_key()
        self._drop_strangers()
        for path in sorted(self._folder.glob(f"{self._loop:03}-*.pt"), reverse=True):
            step, _, digest = path.stem.partition("-")[2].partition("-")
            if content_hash(path) != digest:
                _say(f"{path} is damaged and was left out; what it held is computed again")
                path.unlink()
                continue
            return path, int(step)
        return None

    def save(self, step: int, parts: Mapping[str, Any]) -> None:
        """Keep the parts as they are after `step`, if it is time; called between two steps.

        Of several processes the first writes: what it holds is what all hold, or is gathered from all where each
        holds a part.
        """
        group = ranks.current()
        if self._stage is None or not (group.is_first or group.sharded):
            return
        is_time = time.monotonic() >= self._due
        if not (group.from_first(is_time) if group.sharded else is_time):
            return
        started = time.monotonic()
        state = {name: _state(part) for name, part in parts.items()}
        if group.sharded:
            state = ranks.gathered(state)
            if not group.is_first:
                return
        try:
            self._write(step, {"parts": state, "random": _random()})
        except OSError as error:
            # Training does not need it: a full disk costs a later run some time, not this one its result.
            _say(f"none kept after step {step}, training goes on: {error}; free some space under {self._stage}")
        ended = time.monotonic()
        self._due = ended + (max(self._seconds, (ended - started) / MAX_SHARE) if self._seconds else 0.0)

    def clear(self) -> None:
        """The stage is done: what led there is of no use."""
        if self._stage is not None:
            shutil.rmtree(self._stage, ignore_errors=True)

    def _drop_strangers(self) -> None:
        """Delete what belongs to other parameters, inputs or code, and what a kill left half-written."""
        assert self._stage is not None
        for other in self._stage.glob("*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        for staged in self._folder.glob(".*"):
            staged.unlink()

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        staged = self._folder / ".staged"
        try:
            digest = _dump(state, staged)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        kept = staged.replace(self._folder / f"{self._loop:03}-{step:09}-{digest}.pt")
        sync(self._folder)
        for old in self._folder.glob(f"{self._loop:03}-*.pt"):
            if old != kept:
                old.unlink()


NONE = Checkpoints()  # keeps nothing


def _say(text: str) -> None:
    sys.stderr.write(f"checkpoint: {text}\n")


def _state(part: Any) -> Any:
    import torch

    if isinstance(part, _PLAIN):
        return part
    if isinstance(part, torch.nn.Module):
        frozen = _frozen(part)
        return {name: value for name, value in part.state_dict().items() if name not in frozen}
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if hasattr(part, "state_dict"):
        return part.state_dict()
    return {name: _state(value) for name, value in vars(part).items()}


def _restored(part: Any, state: Any) -> Any:
    """The part, brought to the state in place; of a plain value, the one that was kept."""
    import torch

    if isinstance(part, _PLAIN):
        return state
    if isinstance(part, torch.nn.Module):
        missing, unexpected = part.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= _frozen(part), missing
    elif isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, np.random.Generator):
        part.bit_generator.state = state
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    else:
        for name, value in vars(part).items():
            setattr(part, name, _restored(value, state[name]))
    return part


def _frozen(module: Any) -> set[str]:
    """Parameters that training leaves as they are (under adapters, the whole base model)."""
    return {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}


def _random() -> dict[str, Any]:
    """The states of the global random generators, as plain values."""
    import torch

    name, words, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, np.asarray(words).tolist(), *rest),
        "python": random.getstate(),
    }


def _restore(parts: Mapping[str, Any], path: Path) -> None:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    assert state["parts"].keys() == parts.keys(), (sorted(state["parts"]), sorted(parts))
    for name, part in parts.items():
        kept = state["parts"][name]
        if ranks.current().sharded:
            kept = ranks.scattered(kept, part)
        _restored(part, kept)
    drawn = state["random"]
    torch.set_rng_state(drawn["torch"])
    if drawn["cuda"]:
        torch.cuda.set_rng_state_all(drawn["cuda"])
    np.random.set_state(drawn["numpy"])
    random.setstate(drawn["python"])


class _Hashing:
    """A file that hashes what is written to it, and keeps the reason why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _dump(state: Mapping[str, Any], path: Path) -> str:
    """Write a state through to the disk; its sha256. Raises OSError."""
    import torch

    with path.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(state, cast(BinaryIO, hashing))
        except RuntimeError:  # torch's own, about positions in the file; it hides the cause
            if hashing.error is None:
                raise
            raise hashing.error from None
        file.flush()
        os.fsync(file.fileno())
    return hashing.digest.hexdigest()
