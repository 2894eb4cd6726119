"""AdamW for weights in bfloat16, on a float32 copy of each: mixed precision (Micikevicius 2018, arXiv:1710.03740, 3.1).

A bfloat16 number keeps 8 bits: added to a weight of 1, anything below 1/512 is rounded away, and a step of a usual
learning rate with it. The copies, and the moments, add up what the weights are too coarse for.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class GradientSums:
    """Gradients of several backward passes, added up in float32 for weights that are coarser.

    bfloat16 rounds every sum, and what is small beside it away.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._coarse = [p for p in parameters if p.dtype.itemsize < 4]
        self._sums: dict[int, Tensor] = {}

    def take(self) -> None:
        """What the passes so far gave; to be called before the next one."""
        for p in self._coarse:
            if p.grad is not None:
                self._sums[id(p)] = p.grad.float() + self._sums.get(id(p), 0.0)
                p.grad = None

    def give(self) -> None:
        """The sum over all passes as the gradient of each weight, rounded once."""
        if self._sums:
            self.take()
            for p in self._coarse:
                if id(p) in self._sums:
                    p.grad = self._sums.pop(id(p)).to(p.dtype)


class MasterAdamW(torch.optim.AdamW):
    """As AdamW, but for weights in bfloat16 its state is float32 and holds the weight itself, as `master`."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            states = [self._state(p) for p in learned]
            masters = [state.get("master", p) for state, p in zip(states, learned, strict=True)]
            adamw(
                masters,
                [p.grad.to(master.dtype) for p, master in zip(learned, masters, strict=True)],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            for p, master in zip(learned, masters, strict=True):
                if master is not p:
                    p.copy_(master)

    def _state(self, p: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            whole = p.detach().float() if p.dtype.itemsize < 4 else p
            state |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(whole),
                "exp_avg_sq": torch.zeros_like(whole),
            }
            if whole is not p:
                state["master"] = whole
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # Which has rounded everything to the weights' number type.
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, values in state_dict["state"].items():
            p = parameters[number]
            self.state[p] |= {name: value.to(p.device) for name, value in values.items() if name != "step"}
