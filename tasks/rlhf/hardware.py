"""Hardware classes: what they could do by their makers' data sheets, and the share of it assumed here.

Peaks are of dense matrix products. float32 is float32: TF32 is off, as in torch by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.rlhf.passes import Network, Pass, Work

GB = 1e9


@dataclass(frozen=True)
class Hardware:
    name: str
    peak: Mapping[int, float]  # FLOP/s by the bytes of a number: 4 is float32, 2 bfloat16
    memory: float  # bytes
    bandwidth: float  # bytes/s of that memory
    utilisation: float  # assumed share of the peak that passes over many tokens reach
    launch: float  # assumed seconds to start a layer's operations: what a small model or a single token pays
    runtime: float = 0.0  # bytes that a process holds before any model: interpreter, torch, transformers

    def seconds(self, each: Pass, network: Network) -> float:
        """Compute-bound, or for sampling bound by reading the weights for every token; plus what starting costs."""
        compute = each.flops(network) / (self.peak[network.number_bytes] * self.utilisation)
        if each.kind == "sample":
            compute = max(compute, each.calls * network.shape.parameters * network.number_bytes / self.bandwidth)
        starts = each.calls * network.shape.num_layers * self.launch
        return compute + starts * (3 if each.kind == "train" else 1)

    def seconds_of(self, work: Work, network: Network) -> float:
        return sum(self.seconds(each, network) for each in work.passes)

    def peak_bytes(self, work: Work) -> float:
        return self.runtime + work.peak_bytes


def _gpu(name: str, float32: float, bfloat16: float, memory: float, bandwidth: float) -> Hardware:
    """TFLOP/s, GB and TB/s. Plain PyTorch without fused kernels: 0.35 of the peak, 1 ms to start a layer."""
    peak = {4: float32 * 1e12, 2: bfloat16 * 1e12}
    return Hardware(name, peak, memory * GB, bandwidth * 1e12, utilisation=0.35, launch=1e-3)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100", 19.5, 312, 80, 2.0),
        _gpu("h100", 67, 989, 80, 3.35),
        _gpu("h200", 67, 989, 141, 4.8),
        _gpu("l4", 30.3, 121, 24, 0.3),
        _gpu("l40s", 91.6, 362, 48, 0.864),
        _gpu("rtx4090", 82.6, 165, 24, 1.0),
    )
}
NAMES = ("cpu", *GPUS)


def cpu(cores: int, memory: float) -> Hardware:
    """Cores of 96 GFLOP/s: two fused multiply-adds of 8 float32 (AVX2) at 3 GHz; bfloat16 at half, for lack of AMX."""
    peak = {4: 96e9 * cores, 2: 48e9 * cores}
    return Hardware("cpu", peak, memory, 10 * GB * cores, utilisation=0.3, launch=1e-3, runtime=0.45 * GB)


def of_device(name: str) -> str | None:
    """The class of a GPU by the name that its driver gives, e.g. "NVIDIA H100 80GB HBM3"; None: not in the table."""
    plain = name.lower().replace(" ", "")
    return next((known for known in sorted(GPUS, key=len, reverse=True) if known in plain), None)
