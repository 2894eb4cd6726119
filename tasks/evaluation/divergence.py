"""KL(policy || reference) from the policy's own samples. Schulman 2020, http://joschu.net/blog/kl-approx.html.

Inputs are per-token log-probs of one reply [T], in nats, of tokens drawn from the policy.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def k1(policy: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """log(pi/ref) per token [T]: unbiased, can be negative, noisy."""
    value: NDArray[np.float64] = np.asarray(policy, dtype=float) - np.asarray(reference, dtype=float)
    return value


def k2(policy: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Half its square per token [T]: biased, low variance."""
    value: NDArray[np.float64] = 0.5 * k1(policy, reference) ** 2
    return value


def k3(policy: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """ref/pi - 1 - log(ref/pi) per token [T]: unbiased and never negative."""
    log_ratio = -k1(policy, reference)
    # expm1: exp(x) - 1 - x loses every digit near x = 0
    value: NDArray[np.float64] = np.expm1(log_ratio) - log_ratio
    return value
