"""Log-probabilities of replies: LM head on reply positions only, softmax in fp32, logits in chunks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tasks.rlhf import batching, packing, ranks
from tasks.rlhf.batch import Example, LossOutput
from tasks.rlhf.batching import distinct

# Rows of logits held at once. One chunk of fp32 logits over a vocabulary of 150k is then about 0.6 GB.
CHUNK = 1024
# Tokens of a forward pass that only measures. On a CPU larger tensors fall out of its caches, and their memory is new
# every time: the same pass over real dialogues takes half as long again with 16384.
MEASURED = {"cpu": 2048, "cuda": 16384}
# Logits in a chunk beyond which they are recomputed in the backward pass: those of a large vocabulary would
# dominate memory.
RECOMPUTE_ABOVE = 2**25


def token_logprobs(model: Any, examples: Sequence[Example], temperature: float = 1.0) -> Tensor:
    """Log-probs of all reply tokens, end to end over the rows: float32 [N], in nats.

    The policy measured is softmax(logits / temperature), the one that sampled (no top-k, no top-p).
    """
    return _over_chunks(model, examples, temperature, entropy=False)[0]


def token_logprobs_and_entropy(
    model: Any, examples: Sequence[Example], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropies of the distributions that the tokens were drawn from: two float32 [N]."""
    logprobs_N, entropy_N = _over_chunks(model, examples, temperature, entropy=True)
    return logprobs_N, entropy_N


def sum_by_row(values_N: Tensor, examples: Sequence[Example]) -> Tensor:
    """[N] -> [B]: sums over each row's reply tokens."""
    sizes_B = torch.tensor([len(e.reply_ids) for e in examples], device=values_N.device)
    rows_N = torch.repeat_interleave(torch.arange(len(examples), device=values_N.device), sizes_B)
    return torch.zeros(len(examples), device=values_N.device, dtype=values_N.dtype).index_add(0, rows_N, values_N)


def reply_nll(model: Any) -> Callable[[Sequence[Example]], LossOutput]:
    """The loss of SFT: -log p per reply token, in nats. Weigh rows by their number of reply tokens."""

    def loss(rows: Sequence[Example]) -> LossOutput:
        once, places = distinct(rows)
        sizes_B = torch.tensor([len(row.reply_ids) for row in once], device=model.device)
        return LossOutput((-sum_by_row(token_logprobs(model, once), once) / sizes_B)[places])

    return loss


def pad_by_row(values_N: Tensor, examples: Sequence[Example], width: int | None = None) -> Tensor:
    """[N] -> [B, T], padded right with 0 to `width` or the longest reply."""
    sizes = [len(e.reply_ids) for e in examples]
    padded = torch.nn.utils.rnn.pad_sequence(list(values_N.split(sizes)), batch_first=True)
    missing = (width or padded.shape[1]) - padded.shape[1]
    return torch.nn.functional.pad(padded, (0, missing)) if missing else padded


def logits(model: Any, hidden_ND: Tensor) -> Tensor:
    """The model's own logits at last hidden states, float32 [N, V]: its head, and what some models do to its output."""
    config = unwrapped(model).config.get_text_config()
    logits_NV: Tensor = model.get_output_embeddings()(hidden_ND).float()
    if (divisor := getattr(config, "logits_scaling", None)) not in (None, 1.0):  # Granite
        logits_NV = logits_NV / divisor
    if (factor := getattr(config, "logit_scale", None)) not in (None, 1.0):  # Cohere
        logits_NV = logits_NV * factor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits_NV = cap * torch.tanh(logits_NV / cap)
    return logits_NV


def unwrapped(model: Any) -> Any:
    """The transformers model itself, with any adapters in place inside it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def reply_logprobs(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    reply_ids: Sequence[Sequence[int]],
    temperature: float = 1.0,
    batch_tokens: int | None = None,
) -> list[np.ndarray]:
    """Per-token log-probs of each reply, float32, in the order given. Batches are as large as suits the machine."""
    examples = [Example(p, r) for p, r in zip(prompt_ids, reply_ids, strict=True)]
    out: list[np.ndarray] = [np.empty(0, np.float32)] * len(examples)
    for rows in measured_batches(examples, batch_tokens):
        batch = [examples[i] for i in rows]
        logprobs_N = token_logprobs(model, batch, temperature)
        pieces = logprobs_N.cpu().split([len(e.reply_ids) for e in batch])
        for i, piece in zip(rows, pieces, strict=True):
            out[i] = piece.numpy()
    return out


@torch.no_grad()
def reply_sums(
    logprobs: Callable[[Sequence[Example]], Tensor], examples: Sequence[Example], batch_tokens: int | None = None
) -> np.ndarray:
    """log p of each reply, in nats, float64 [B], in the order given; `logprobs` measures a batch: [N].

    Equal examples are measured once. Processes that train together (ranks.py) each measure some of the batches.
    """
    once, places = distinct(examples)
    out = np.zeros(len(once))
    group = ranks.current()
    for rows in group.share(measured_batches(once, batch_tokens)):
        batch = [once[i] for i in rows]
        out[rows] = sum_by_row(logprobs(batch), batch).cpu().numpy()
    total: np.ndarray = np.sum(group.gather(out), axis=0)[places]
    return total


def measured_tokens() -> int:
    return MEASURED["cuda" if torch.cuda.is_available() else "cpu"]


def measured_batches(examples: Sequence[Example], batch_tokens: int | None = None) -> list[np.ndarray]:
    """Batches of places in `examples` for passes that only measure; None: as large as suits the machine."""
    return batching.measured(examples, batch_tokens or measured_tokens())


def reply_states(model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the reply tokens, [N, D], and those tokens, [N]."""
    model = unwrapped(model)
    rows = packing.rows_of(examples, model.config)
    reply_ids_N = rows.ids_RL.flatten()[torch.from_numpy(rows.reply_places())].to(model.device)
    return packing.states(model.base_model, rows, rows.predicting_places()), reply_ids_N


def _over_chunks(model: Any, examples: Sequence[Example], temperature: float, entropy: bool) -> list[Tensor]:
    """Of all reply tokens the log-prob and, where asked for, the entropy: [N] each."""
    hidden_ND, targets_N = reply_states(model, examples)
    head = model.get_output_embeddings()

    def compute(hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, ...]:
        logits_NV = logits(model, hidden_ND)
        scaled_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
        found: tuple[Tensor, ...] = _Chosen.apply(scaled_NV, targets_N, entropy)
        return found

    pieces = []
    for chunk in zip(hidden_ND.split(CHUNK), targets_N.split(CHUNK), strict=True):
        if torch.is_grad_enabled() and chunk[0].shape[0] * head.out_features > RECOMPUTE_ABOVE:
            pieces.append(checkpoint(compute, *chunk, use_reentrant=False))
        else:
            pieces.append(compute(*chunk))
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


class _Chosen(torch.autograd.Function):
    """log_softmax(logits)[n, target n] and, where asked for, the entropy of row n.

    One tensor of [N, V] is kept, and the gradient is made in few passes over it:

        d log p(t) / d logits = onehot(t) - p        d H / d logits = -p (log p + H)
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, entropy: bool) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        logps_NV = torch.log_softmax(logits_NV, dim=-1)
        chosen_N = logps_NV.gather(1, targets_N[:, None]).squeeze(1)
        entropy_N = -(logps_NV.exp().mul_(logps_NV)).sum(-1) if entropy else None
        ctx.save_for_backward(logps_NV, targets_N, entropy_N)
        return (chosen_N,) if entropy_N is None else (chosen_N, entropy_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        logps_NV, targets_N, entropy_N = ctx.saved_tensors
        chosen_grad_N, entropy_grad_N = (*grads, None)[:2]
        grad_NV = None
        if entropy_grad_N is not None:
            grad_NV = logps_NV.exp().mul_(logps_NV + entropy_N[:, None]).mul_(-entropy_grad_N[:, None])
        if chosen_grad_N is not None:
            through_p_NV = logps_NV.exp().mul_(-chosen_grad_N[:, None])
            grad_NV = through_p_NV if grad_NV is None else grad_NV.add_(through_p_NV)
            grad_NV.scatter_add_(1, targets_N[:, None], chosen_grad_N[:, None])
        return grad_NV, None, None
