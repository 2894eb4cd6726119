"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being kept.

Memory for time: about a third more arithmetic, and of the activations only those between layers are held. Chen 2016,
arXiv:1604.06174.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recompute_layers(model: Any) -> None:
    """Have the model recompute its layers, in place; gradients stay the same. ValueError where it has none to find.

    Transformers' own switch works in training mode alone; policies learn from rollouts in eval mode.
    """
    for layer in layers(model, "gradient_checkpointing"):
        layer.forward = MethodType(_recomputed, layer)  # a method: a copy of the layer calls the copy


def layers(model: Any, option: str) -> list[Any]:
    """The layers of a transformers model. ValueError, naming the option of `model` that asks, where none are known."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise ValueError(
            f"params.yaml: model.{option} = true: transformers does not say which layers of {type(model).__name__} it "
            "can be done to; set it to false"
        )
    return found


def is_recomputed(layer: Any) -> bool:
    return getattr(vars(layer).get("forward"), "__func__", None) is _recomputed


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward`, whose activations are not kept."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _recomputed(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return recomputed(partial(type(layer).forward, layer), *args, **kwargs)
