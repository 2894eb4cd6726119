"""Passes of a network over sequences, and what a stage holds in memory while they run.

Lengths are means; padding is not counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.rlhf import model_size
from tasks.rlhf.model_size import Shape
from tasks.rlhf.sampling_batch import sampled_together

MEASURED_TOKENS = 16384  # of a forward pass that only measures, on a GPU (MEASURED of logprobs.py)
LOGITS_TOGETHER, RECOMPUTED_ABOVE = 1024, 2**25  # CHUNK and RECOMPUTE_ABOVE of logprobs.py


# What is read of a reply: the LM head or a value at each of its tokens, or one score. Only the LM head costs.
Read = Literal["logprobs", "values", "score"]


@dataclass(frozen=True)
class Lengths:
    """Rows of a table, and the mean tokens of their prompt and of a reply."""

    rows: float
    prompt: float
    reply: float
    replies: float = 2.0  # of a pair: different ones; fewer than two where a reply stands in several pairs


def join(parts: Sequence[Lengths]) -> Lengths:
    """All their rows, and the means over them."""
    rows = sum(part.rows for part in parts)
    if not rows:
        return Lengths(0, 0, 0)
    means = (sum(part.rows * getattr(part, side) for part in parts) / rows for side in ("prompt", "reply", "replies"))
    return Lengths(rows, *means)


@dataclass(frozen=True)
class Network:
    """A model with the bytes of its numbers and, where adapters are trained, their rank."""

    shape: Shape
    number_bytes: int
    lora_rank: int | None = None
    quantized: bool = False  # the frozen weights of the layers are 4-bit numbers (QLoRA)
    recomputes_layers: bool = False  # gradient checkpointing

    @property
    def weight_bytes(self) -> float:
        """Of the model as it is trained, without adapters; NF4 with its scales takes 4.5 bits."""
        layers = self.shape.num_layers * self.shape.layer_weights if self.quantized else 0
        return (self.shape.parameters - layers) * self.number_bytes + layers * 4.5 / 8

    @property
    def trained(self) -> int:
        """Parameters that learn."""
        return self.shape.parameters if self.lora_rank is None else self.shape.lora_parameters(self.lora_rank)

    @property
    def trained_bytes(self) -> int:
        """Of all numbers that learn; adapters are float32."""
        return self.trained * (self.number_bytes if self.lora_rank is None else 4)

    def sampled_together(self, length: float) -> int:
        """Sequences of that whole length in a batch of the sampler."""
        return sampled_together(self.shape.cached, self.shape.vocab_size, length, self.number_bytes)

    @property
    def recomputes_logits(self) -> bool:
        return LOGITS_TOGETHER * self.shape.vocab_size > RECOMPUTED_ABOVE


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Sequences that go through a network: measured, trained on, or sampled."""

    what: str
    kind: Literal["measure", "train", "sample"]
    sequences: float
    prompt: float  # mean tokens
    reply: float
    calls: float  # of the network, one after the other
    read: Read = "logprobs"

    @property
    def tokens(self) -> float:
        return self.sequences * (self.prompt + self.reply)

    @property
    def unread(self) -> float:
        """Tokens that are there for others to attend to: their last MLP is not computed. A sampler has none."""
        if self.kind == "sample":
            return 0.0
        return self.tokens - self.sequences * (1 if self.read == "score" else self.reply)

    def flops(self, network: Network) -> float:
        shape, rank = network.shape, network.lora_rank
        body = model_size.body_flops(shape, self.sequences, self.prompt + self.reply)
        body -= model_size.unread_flops(shape, self.unread)
        if self.read == "score":
            body -= model_size.unasked_flops(shape, self.sequences, self.prompt + self.reply)
        head = model_size.head_flops(shape, self.sequences * self.reply) if self.read == "logprobs" else 0.0
        if self.kind != "train":
            return body + head
        frozen = rank is not None  # then the head needs no gradient of its weights
        passes = 1 + network.recomputes_layers + model_size.backward_factor(shape, rank)
        return body * passes + head * (3 - frozen + network.recomputes_logits)


@dataclass(frozen=True)
class Work:
    """A stage: its passes, and the bytes of each kind of memory at its fullest."""

    stage: str
    passes: tuple[Pass, ...]
    memory: Mapping[str, float]

    @property
    def tokens(self) -> float:
        return sum(each.tokens for each in self.passes)

    def flops(self, network: Network) -> float:
        return sum(each.flops(network) for each in self.passes)

    @property
    def peak_bytes(self) -> float:
        """The cache of sampling is gone when the activations of an update are there."""
        m = self.memory
        return m["weights"] + m["gradients"] + m["optimizer"] + max(m["activations"], m["cache"])


def train(what: str, rows: Lengths, budget: float, *, read: Read = "logprobs") -> Pass:
    return _batched(what, "train", rows, budget, read)


def measure(what: str, rows: Lengths, budget: float = MEASURED_TOKENS, *, read: Read = "logprobs") -> Pass:
    return _batched(what, "measure", rows, budget, read)


def sample(what: str, network: Network, rows: Lengths, max_new_tokens: int, at_once: float = math.inf) -> Pass:
    """A batch goes on until its last reply ends: with many of them, to the end of the room."""
    together = network.sampled_together(rows.prompt + max_new_tokens)
    batches = math.ceil(rows.rows / min(together, at_once, max(rows.rows, 1)))
    reply = min(rows.reply, max_new_tokens)
    calls = batches * max_new_tokens
    return Pass(what=what, kind="sample", sequences=rows.rows, prompt=rows.prompt, reply=reply, calls=calls)


def memory(
    network: Network, copies: float, *, step: Pass | None = None, samples: Sequence[Pass] = (), critic: bool = False
) -> dict[str, float]:
    """Bytes while `copies` models are held: one learns by `step` (and a whole critic), `samples` are drawn."""
    shape, size = network.shape, network.number_bytes
    trained = network.trained_bytes * (step is not None) + shape.parameters * size * critic
    adapters = 0 if network.lora_rank is None or step is None else network.trained_bytes
    return {
        "weights": (copies - 1) * shape.parameters * size
        + (network.weight_bytes if step else shape.parameters * size)
        + adapters,
        "gradients": trained,
        "optimizer": model_size.optimizer_bytes(trained, size if network.lora_rank is None else 4),
        "activations": _kept(network, step) if step else 0.0,
        "cache": max((_cache(network, each) for each in samples), default=0.0),
    }


def _kept(network: Network, step: Pass) -> float:
    """By one call of a training pass: activations, adapters' inputs in float32, and logits or, recomputed, a chunk."""
    tokens = step.tokens / step.calls
    kept = model_size.activation_bytes(network.shape, tokens, network.number_bytes, network.lora_rank)
    if network.recomputes_layers:  # the inputs of all layers, and one layer whole
        kept = kept / network.shape.num_layers
        kept += tokens * network.shape.num_layers * network.shape.hidden_size * network.number_bytes
    else:
        unread = step.unread / step.calls
        kept -= model_size.unread_bytes(network.shape, unread, network.number_bytes, network.lora_rank)
    if step.read != "logprobs":
        return kept
    replies = tokens * step.reply / (step.prompt + step.reply)
    return kept + model_size.logit_bytes(network.shape, LOGITS_TOGETHER if network.recomputes_logits else replies)


def _batched(what: str, kind: Literal["measure", "train"], rows: Lengths, budget: float, read: Read) -> Pass:
    """Sequences in batches of at most `budget` tokens."""
    calls = max(1, math.ceil(rows.rows * (rows.prompt + rows.reply) / budget))
    return Pass(what=what, kind=kind, sequences=rows.rows, prompt=rows.prompt, reply=rows.reply, calls=calls, read=read)


def _cache(network: Network, drawn: Pass) -> float:
    length = drawn.prompt + drawn.reply
    rows = min(network.sampled_together(length), drawn.sequences)
    cache = model_size.cache_bytes(network.shape, rows, length, network.number_bytes)
    return cache + model_size.logit_bytes(network.shape, rows)
