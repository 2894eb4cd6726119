"""The frozen policy that a trained one is held against."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.rlhf import models
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import token_logprobs


class Reference:
    """The frozen SFT policy: the policy itself with its adapters off or, without adapters, a copy.

    The copy is loaded when it is first asked for: not every algorithm does.
    """

    def __init__(self, policy: Any, sft: Path, dtype: str) -> None:
        self._adapted = policy if hasattr(policy, "disable_adapter") else None
        self._sft, self._dtype = sft, dtype

    @cached_property
    def _copy(self) -> Any:
        return models.load_policy(self._sft, self._dtype)

    def logprobs(self, examples: Sequence[Example], temperature: float = 1.0) -> Tensor:
        """[N], without gradient."""
        with torch.no_grad():
            if self._adapted is None:
                return token_logprobs(self._copy, examples, temperature)
            with self._adapted.disable_adapter():
                return token_logprobs(self._adapted, examples, temperature)
