"""The frozen policy that a trained one is held against.

What it makes of given replies is the same in every run of a sweep, and is kept.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.hashes import content_hash
from tasks.rlhf import models, ranks
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import reply_sums, token_logprobs
from tasks.rlhf.options import ModelOptions
from tasks.shelf import Shelf, code_version

_SUMS = "sums.npy"
_KEPT = 16  # sets of replies


class Reference:
    """The frozen SFT policy: the policy itself with its adapters off or, without adapters, a copy.

    The copy is loaded when it is first asked for: not every algorithm does, nor every run. `kept`: a folder for sums.
    """

    def __init__(self, policy: Any, sft: Path, options: ModelOptions, kept: Path) -> None:
        self._adapted = policy if hasattr(policy, "disable_adapter") else None
        self._sft, self._options, self._kept = sft, options, kept

    @cached_property
    def _copy(self) -> Any:
        return models.load_policy(self._sft, self._options.dtype)

    def logprobs(self, examples: Sequence[Example], temperature: float = 1.0) -> Tensor:
        """[N], without gradient."""
        with torch.no_grad():
            if self._adapted is None:
                return token_logprobs(self._copy, examples, temperature)
            with self._adapted.disable_adapter():
                return token_logprobs(self._adapted, examples, temperature)

    def sums(self, examples: Sequence[Example]) -> np.ndarray:
        """log p of each reply, in nats, float64 [B], in the order given; those of an earlier run, to the bit."""
        key, group = self._shelf.key(_digest(examples)), ranks.current()
        place = self._shelf.find(key)
        everywhere = all(group.gather(place is not None))  # or all processes measure together
        if everywhere and place is not None:
            kept: np.ndarray = np.load(place / _SUMS)
            return kept
        sums = reply_sums(self.logprobs, examples)
        if group.is_first and np.isfinite(sums).all():
            self._shelf.put(key, lambda folder: np.save(folder / _SUMS, sums))
            self._shelf.keep_latest(_KEPT)
        return sums

    @cached_property
    def _shelf(self) -> Shelf:
        """By all but the replies that decides a sum, rounding too."""
        lora = self._options.lora
        on = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
        if torch.cuda.is_available():
            on = [torch.cuda.get_device_name()]
        numbers = [self._options.dtype, self._options.compile, lora and lora.quantize, lora is not None, *on]
        code = code_version("rlhf", libraries=("torch", "transformers"))
        return Shelf(self._kept, json.dumps([code, content_hash(self._sft), ranks.current().count, *numbers]))


def _digest(examples: Sequence[Example]) -> str:
    """A hash of all tokens, and of where prompts and replies begin."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.reply_ids):
            values = np.asarray(ids, dtype=np.int64)
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
    return digest.hexdigest()
