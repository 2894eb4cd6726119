"""Sharding: each rank keeps a part of every weight, gradient and optimiser state (FSDP2, Zhao 2023, arXiv:2304.11277).

For models whose weights fit one GPU, and whose training does not. A layer's weights are gathered while it computes;
the backward pass itself sums gradients over the ranks.
"""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

from tasks.rlhf.batch import LossOutput

R = TypeVar("R")


class _Root(torch.nn.Module):
    """What computes with the model runs inside: our losses call its body and head, not the `forward` that FSDP hooks.

    Plain tensors go in and out, which FSDP needs to see.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], LossOutput]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = compute()
        return output.loss_B, output.metrics


def shard(model: Any, loss: Callable[[list[R]], LossOutput]) -> Callable[[list[R]], LossOutput]:
    """Shard the model in place, by its layers; the loss that computes with it. All ranks must ask it as often."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(_layer_classes(model)),
        cpu_ram_efficient_loading=False,  # every rank has loaded the same weights already
    )
    root = _Root(model)
    # `Accelerator.prepare` calls this function, but on GPUs alone.
    fsdp2_prepare_model(
        SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=False), root
    )
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum: the loop divides, by the weight of the whole step
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return lambda rows: LossOutput(*root(lambda: loss(rows)))


def _layer_classes(model: Any) -> set[str]:
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    found = {type(module).__name__ for module in model.modules()}
    if not names & found:
        raise ValueError(
            f"PLUMBLINE_SHARD: transformers does not say which layers of {type(model).__name__} can be sharded; leave "
            "it out to keep the whole model on every GPU"
        )
    return names & found


class Outline:
    """What a model is, without its weights: taken before it is sharded, it makes it whole again afterwards."""

    def __init__(self, model: Any) -> None:
        hollow = {
            id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()
        }
        self._outline = copy.deepcopy(model, hollow)  # of the weights, deepcopy takes these

    def fill(self, model: Any) -> None:
        """Gather the weights of the sharded model on every rank; the model, in place, as if it had never been sharded.

        Whoever holds the model or a part of it holds what it has become.
        """
        weights = {name: p.full_tensor().detach() for name, p in model.named_parameters()}
        filled = {
            id(hollow): torch.nn.Parameter(weights.pop(name), hollow.requires_grad)
            for name, hollow in self._outline.named_parameters()
        }
        plain = list(self._outline.modules())
        for module in plain:
            for name, hollow in module._parameters.items():
                if hollow is not None:
                    module._parameters[name] = filled[id(hollow)]
        for old, new in zip(list(model.modules()), plain, strict=True):
            old.__class__ = type(new)
            object.__setattr__(old, "__dict__", new.__dict__)
