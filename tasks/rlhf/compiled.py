"""Layers whose passes torch has compiled: what stands between their matrix products becomes a few loops.

Compiling takes from half a minute to minutes, once for each kind of call, and again by a process that finds no cache of
torch's; it pays for trainings that take longer. Sampling, which calls layers in other ways, goes on as it was. A
resumed run may see other shapes first, for which torch makes other loops: it agrees with an uninterrupted one but for
rounding, and the stage says so.
"""

import shutil
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

from tasks.rlhf.recompute import layers


def compile_layers(model: Any) -> None:
    """Have the model's layers compiled when they are first called, in place. ValueError where that cannot be."""
    found = layers(model, "compile")
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ValueError("params.yaml: model.compile = true: no C++ compiler (g++) is installed; set it to false")
    for layer in found:
        layer.forward = MethodType(_compiled, layer)  # a method: a copy of the layer calls the copy


def is_compiled(layer: Any) -> bool:
    return getattr(vars(layer).get("forward"), "__func__", None) is _compiled


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled for tensors of any shape: once for all layers that it is called with."""
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1  # in this process: a stage leaves no others behind
    torch._dynamo.config.recompile_limit = 64  # kinds of calls: with gradients or not, with a mask or not ...
    result: Callable[..., Any] = torch.compile(function, dynamic=True)
    return result


def _compiled(layer: Any, *args: Any, **kwargs: Any) -> Any:
    forward = type(layer).forward
    if kwargs.get("past_key_values") is None:  # else a sampler calls
        forward = compiled(forward)
    return forward(layer, *args, **kwargs)
