"""How many sequences are sampled in one batch."""

FEWEST, MOST = 256, 1024
BYTES = 2**28  # that more than the fewest may take, of cache and logits


def sampled_together(cached: float, vocab_size: int, length: float, number_bytes: int) -> int:
    """Sequences of that whole length. What it costs to call a small model is shared by more of them.

    cached: numbers that the KV-cache holds per token, of all layers.
    """
    one = cached * length * number_bytes + 2 * 4 * vocab_size
    return int(min(MOST, max(FEWEST, BYTES // one)))
