"""How large a Llama-like model is: weights, FLOPs and bytes, from its configuration alone.

FLOPs are those of the matrix products, 2 per weight and token, and of attention; Kaplan 2020, arXiv:2001.08361,
table 1. Forward and backward pass together cost three forward passes, hence the 6 N D of training. Activations are
counted tensor by tensor as autograd keeps them; Korthikanti 2022, arXiv:2205.05198, sec. 4, does so for GPT.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Families that are blocks of RMSNorm, rotary attention and a gated MLP, and what they add to Llama.
FAMILIES: dict[str, dict[str, bool]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder; `heads` are those of queries, `kv_heads` those of keys and values."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    tied: bool  # embedding and LM head are one matrix
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the matrices of a layer."""
        d, f = self.hidden_size, self.intermediate_size
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of a layer."""
        return sum(rows * columns for rows, columns in self.linears)

    @property
    def body_parameters(self) -> int:
        """Embedding, layers and the last norm: everything but the head."""
        d, f, q, kv = (
            self.hidden_size,
            self.intermediate_size,
            *(n * self.head_dim for n in (self.heads, self.kv_heads)),
        )
        vectors = 2 * d
        vectors += (q + 2 * kv) * self.qkv_bias + d * self.out_bias
        vectors += (2 * f + d) * self.mlp_bias + 2 * self.head_dim * self.qk_norm
        return self.vocab_size * d + self.num_layers * (self.layer_weights + vectors) + d

    @property
    def parameters(self) -> int:
        """Of the language model; a tied head counts once."""
        return self.body_parameters + (0 if self.tied else self.vocab_size * self.hidden_size)

    @property
    def cached(self) -> int:
        """Numbers that a KV-cache holds per token."""
        return 2 * self.num_layers * self.kv_heads * self.head_dim

    def lora_parameters(self, rank: int) -> int:
        """Of adapters of that rank on every matrix of every layer."""
        return self.num_layers * sum(rank * (rows + columns) for rows, columns in self.linears)


def from_config(config: Mapping[str, Any]) -> Shape:
    """Of a transformers configuration (config.json). ValueError for a model that is not Llama-like."""
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ValueError(
            f"model_type {family!r} cannot be estimated; the estimate knows {', '.join(FAMILIES)}: "
            "give the config.json of a model of about that size"
        )
    heads = config["num_attention_heads"]
    attention_bias = bool(config.get("attention_bias"))
    added = {"qkv_bias": attention_bias, "out_bias": attention_bias} | FAMILIES[family]
    return Shape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate_size=config["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings")),
        mlp_bias=bool(config.get("mlp_bias")),
        **added,
    )


def body_flops(shape: Shape, sequences: float, length: float) -> float:
    """Of one forward pass of the body over sequences of a mean length; a token attends to itself and those before."""
    matrices = 2 * shape.num_layers * shape.layer_weights * sequences * length
    # Scores and weighted values: 2 products of 2 FLOPs per head dimension and token seen, (length + 1) / 2 on average.
    attention = 4 * shape.num_layers * shape.heads * shape.head_dim * sequences * length * (length + 1) / 2
    return matrices + attention


def head_flops(shape: Shape, tokens: float) -> float:
    """Of the LM head at so many positions."""
    return 2 * shape.vocab_size * shape.hidden_size * tokens


def backward_factor(shape: Shape, lora_rank: int | None) -> float:
    """FLOPs of a backward pass of the body per FLOP of its forward pass.

    2: gradients of inputs and of weights, as many each. Frozen weights need none of their own, adapters do.
    """
    return (
        2.0
        if lora_rank is None
        else 1.0 + 2 * shape.lora_parameters(lora_rank) / (shape.num_layers * shape.layer_weights)
    )


def activation_bytes(shape: Shape, tokens: float, number_bytes: int, lora_rank: int | None = None) -> float:
    """What a forward pass of the body over so many tokens keeps for the backward pass.

    Per layer and token: of two norms the input in float32, the normalised and the weighed output (6 d); rotated q and
    k, v, what attention gives (2 q + 2 kv) and a float32 per head; gate, its SiLU, up and their product (4 f). With
    adapters the frozen weights keep nothing, and every adapter its input, in float32.
    """
    d, f = shape.hidden_size, shape.intermediate_size
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 4 * (2 * d + shape.heads) + number_bytes * (2 * q + 2 * kv + 3 * f)
    if lora_rank is None:
        return tokens * (shape.num_layers * (layer + number_bytes * (4 * d + f)) + (4 + number_bytes) * d)
    inputs = 2 * d + f if number_bytes == 4 else 5 * d + q + f  # shared, or a float32 copy for each adapter
    return tokens * shape.num_layers * (layer + 4 * inputs + 4 * len(shape.linears) * lora_rank)


def unread_flops(shape: Shape, tokens: float) -> float:
    """Of a forward pass of the last MLP at so many places: left out where nobody reads its result (last_layer.py)."""
    return 6 * shape.hidden_size * shape.intermediate_size * tokens


def unasked_flops(shape: Shape, sequences: float, length: float) -> float:
    """Of a forward pass of the last attention: left out where one place of each sequence is read (last_layer.py)."""
    queries = shape.heads * shape.head_dim
    projections = 4 * shape.hidden_size * queries * sequences * (length - 1)
    return projections + 4 * queries * sequences * length * (length - 1) / 2


def unread_bytes(shape: Shape, tokens: float, number_bytes: int, lora_rank: int | None = None) -> float:
    """What a forward pass need not keep, where so many positions are not read: of `activation_bytes`, the last MLP."""
    d, f = shape.hidden_size, shape.intermediate_size
    mlp = 4 * d + number_bytes * 3 * f
    if lora_rank is None:
        return tokens * (mlp + number_bytes * (2 * d + f) + (4 + number_bytes) * d)
    inputs = d + f if number_bytes == 4 else 2 * d + f
    return tokens * (mlp + 4 * inputs + 4 * 3 * lora_rank)


def logit_bytes(shape: Shape, reply_tokens: float) -> float:
    """float32 log-probs of the whole vocabulary at so many positions, and their gradient."""
    return 2 * 4 * shape.vocab_size * reply_tokens


def cache_bytes(shape: Shape, sequences: float, length: float, number_bytes: int) -> float:
    """Keys and values of all layers (KV-cache)."""
    return shape.cached * sequences * length * number_bytes


def optimizer_bytes(trained_bytes: float, number_bytes: int) -> float:
    """AdamW in float32: two moments and, in a step, the root of the second, each as large as what is trained.

    For weights in bfloat16 a copy of them and, while it steps, of their gradients besides (master_weights.py).
    """
    return (3 if number_bytes >= 4 else 5) * 4 * trained_bytes / number_bytes
