"""The processes that train one model together (ranks): who this one is, its share of the work, and sums over all.

Every rank holds the same weights, optimiser and generators, and sees the same rows in the same order. It computes on
its share and adds up with the others, so all take the same step: the arithmetic of data-parallel training, without a
wrapper around the model. Alone, nothing here does anything. infra/decisions/0011-several-processes.md says why so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BUCKET = 2**24  # numbers sent at once: enough to be quick, few beside the weights


@dataclass(frozen=True)
class Ranks:
    index: int = 0  # of this process; 0 is the one that writes
    count: int = 1
    sharded: bool = False  # each keeps a part of what it trains (sharding.py)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th item: of items in the order of their length, all ranks get as much."""
        return list(items[self.index :: self.count])

    def block(self, items: Sequence[T]) -> Sequence[T]:
        """A run of neighbours; those of all ranks, in order, are the items."""
        start, end = (len(items) * i // self.count for i in (self.index, self.index + 1))
        return items[start:end]

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of the ranks; all have to ask."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The first rank's value; all have to ask."""
        return self.gather(value)[0]

    def add(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks, by key; a rank without work leaves keys out."""
        totals: dict[str, float] = {}
        for part in self.gather(dict(sums)):
            for key, value in part.items():
                totals[key] = totals[key] + value if key in totals else value
        return totals

    def add_gradients(self, parameters: Iterable[Any]) -> None:
        """Sum the gradients over all ranks, in place; a parameter that no rank used keeps none.

        Those of sharded parameters have been summed by the backward pass.
        """
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist
        from torch.distributed.tensor import DTensor

        whole = [p for p in parameters if not isinstance(p, DTensor)]
        if not whole:
            return
        used = torch.tensor([p.grad is not None for p in whole], dtype=torch.uint8, device=whole[0].device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, is_used in zip(whole, used.tolist(), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in whole if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def reseed(self, seed: int, step: int) -> None:
        """Draws (of dropout) that differ from rank to rank and follow from the step: a resumed run repeats them."""
        if self.count > 1:
            import torch

            torch.manual_seed(seed * 1_000_003 + step * self.count + self.index)


_here = Ranks()


def current() -> Ranks:
    """This process, alone unless it has joined others."""
    return _here


def join(index: int, count: int, meeting: Path, sharded: bool = False) -> Ranks:
    """Meet the other ranks in a file that is not there yet: by NCCL, a GPU each, or by gloo where there is no GPU.

    Accelerate reads LOCAL_RANK besides. ValueError where there are more processes than GPUs.
    """
    import torch
    from accelerate import PartialState

    on_gpu = torch.cuda.is_available()
    if on_gpu and count > torch.cuda.device_count():
        raise ValueError(
            f"PLUMBLINE_PROCESSES = {count}: this machine has {torch.cuda.device_count()} GPUs; start at most one "
            "process for each, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    PartialState(cpu=not on_gpu, init_method=f"file://{meeting}", rank=index, world_size=count)
    global _here
    _here = Ranks(index, count, sharded)
    return _here


def leave() -> None:
    from accelerate import PartialState

    global _here
    _here = Ranks()
    PartialState().destroy_process_group()


def refuse_shards(what: str) -> None:
    """ValueError where each rank keeps a part only and `what` needs a whole model."""
    if current().sharded:
        raise ValueError(
            f"PLUMBLINE_SHARD: {what} needs the whole model on every GPU; leave it out, or train adapters (model.lora)"
        )


def whole(tensor: Any) -> Any:
    """All of a tensor that may be sharded; all ranks have to ask."""
    return tensor.full_tensor() if current().sharded else tensor


def _buckets(gradients: Sequence[Any]) -> Iterator[list[Any]]:
    """Neighbours of one number type, together at most BUCKET numbers or one tensor."""
    bucket: list[Any] = []
    for gradient in gradients:
        held = sum(g.numel() for g in bucket)
        if bucket and (gradient.dtype != bucket[0].dtype or held + gradient.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def gathered(state: Any) -> Any:
    """A state with every sharded tensor whole, on the CPU; all ranks have to ask."""
    from torch.distributed.tensor import DTensor
    from torch.utils._pytree import tree_map

    return tree_map(lambda x: x.full_tensor().cpu() if isinstance(x, DTensor) else x, state)


def scattered(state: Any, part: Any) -> Any:
    """The state of a sharded model or of its optimiser with every tensor sharded as the part's are; others as is."""
    import torch

    if isinstance(part, torch.nn.Module):
        like = part.state_dict()
        return {name: _as(value, like[name]) for name, value in state.items()}
    if isinstance(part, torch.optim.Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        return state | {
            "state": {
                number: {
                    name: _as(value, parameters[number]) if value.shape == parameters[number].shape else value
                    for name, value in values.items()
                }
                for number, values in state["state"].items()
            }
        }
    return state


def _as(value: Any, like: Any) -> Any:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
