"""The reward model: a score for a reply, its scale, and its folder (weights and reward.json).

tasks/adapters/reward_model.py says the same computation again, for machines without this project.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import classifiers, packing, ranks
from tasks.rlhf.batch import Example
from tasks.rlhf.batching import distinct
from tasks.rlhf.logprobs import measured_batches, unwrapped
from tasks.rlhf.models import disable_dropout, existing, placed, save
from tasks.rlhf.options import CHOICE, LoraOptions, ScoreOptions
from tasks.rlhf.quantize import quantized

REWARD_FILE = "reward.json"
ADAPTERS = "adapters"  # folder beside the merged weights, where it was trained with adapters
BASE_FILE = "base.json"
PLAIN = ScoreOptions()


@dataclass
class RewardModel:
    """A scalar score for a reply, r(prompt, reply): the weighted sum of the heads, less the part that is length.

    The network's heads already carry 1 / scale, as do `bound` and `length_slope`; what they give, less `shift`, is
    the *normalised* score: mean 0 and standard deviation 1 over replies of the SFT policy. Margins of the *raw*
    score, which Bradley-Terry calibrates, are `scale` times the normalised ones.
    """

    network: Any  # transformers sequence classifier, a label per head
    shift: float = 0.0
    scale: float = 1.0
    objectives: Mapping[str, float] = field(default_factory=lambda: {CHOICE: 1.0})  # heads in order, their weights
    pooling: str = "last"
    bound: float | None = None  # of each head
    length_slope: float = 0.0  # score per reply token that is taken off
    ties: Mapping[str, Any] | None = None  # the tie model, where it is not "half"; its parameters are of raw margins

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """Normalised scores, float32 [B]."""
        heads_BK = self.heads(examples)
        weights_K = torch.tensor(list(self.objectives.values()), device=heads_BK.device)
        scores_B = (heads_BK * weights_K).sum(-1)
        if self.length_slope:
            tokens_B = torch.tensor([len(e.reply_ids) for e in examples], device=heads_BK.device)
            scores_B = scores_B - self.length_slope * tokens_B
        return scores_B - self.shift

    def heads(self, examples: Sequence[Example]) -> Tensor:
        """Scores of the heads, float32 [B, K]: read at the last token, or the mean over the reply's tokens."""
        network = unwrapped(self.network)
        rows = packing.rows_of(examples, network.config)
        if self.pooling == "last":
            return self.read(packing.states(network.base_model, rows, rows.end_places()))
        # The head is linear: its value at the mean is the mean of a score per token.
        reply_ND = packing.states(network.base_model, rows, rows.reply_places())
        sizes_B = torch.from_numpy(rows.sizes_B).to(network.device)
        row_N = torch.repeat_interleave(torch.arange(len(examples), device=network.device), sizes_B)
        sums_BD = reply_ND.new_zeros(len(examples), reply_ND.shape[1]).index_add(0, row_N, reply_ND)
        return self.read(sums_BD / sizes_B[:, None])

    def read(self, hidden_ND: Tensor) -> Tensor:
        """The heads at given hidden states, float32 [N, K]."""
        scores_NK: Tensor = unwrapped(self.network).score(hidden_ND).float()
        if self.bound is not None:
            scores_NK = self.bound * torch.tanh(scores_NK / self.bound)
        return scores_NK


def new_reward_model(
    sft: Path, dtype: str, seed: int, options: ScoreOptions = PLAIN, lora: LoraOptions | None = None
) -> RewardModel:
    """The SFT body with heads drawn from N(0, 1 / (d + 1)) (Stiennon 2020, arXiv:2009.01325), its dropout off.

    `lora`: the adapters that it is loaded for; they keep the dropout that they are given.
    """
    objectives = dict(sorted(options.objectives.items())) or {CHOICE: 1.0}
    network = classifiers.load(
        existing(sft), num_labels=len(objectives), dtype=getattr(torch, dtype), **quantized(lora, dtype)
    )
    generator = torch.Generator().manual_seed(seed)
    weight = network.score.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) / (weight.shape[1] + 1) ** 0.5)
    network = placed(network).eval()
    disable_dropout(network)  # two replies of a pair would be told apart by noise
    return RewardModel(network, objectives=objectives, pooling=options.pooling, bound=options.bound)


def load_reward(folder: Path, dtype: str = "float32") -> RewardModel:
    network = classifiers.load(existing(folder), dtype=getattr(torch, dtype))
    saved = json.loads((folder / REWARD_FILE).read_text(encoding="utf-8"))
    return RewardModel(placed(network).eval(), **saved)


def normalise(model: RewardModel, examples: Sequence[Example]) -> None:
    """Fold mean and spread of the scores over `examples` (SFT replies) into the model. In place."""
    scores = score_examples(model, examples)
    spread = float(scores.std())
    if not np.isfinite(spread) or spread < 1e-6:
        raise ValueError(
            f"reward: scores of {len(examples)} SFT replies have standard deviation {spread:.3g}; the reward model "
            "tells nothing apart: check the labels of data/prepared/pairs and reward.lr"
        )
    head = unwrapped(model.network).score
    if hasattr(head, "modules_to_save"):  # a head trained beside adapters
        head = head.modules_to_save[head.active_adapters[0]]
    with torch.no_grad():
        head.weight.div_(spread)
    if model.bound is not None:
        model.bound /= spread
    model.length_slope /= spread
    model.shift = float((scores.mean() + model.shift) / spread)
    model.scale = spread * model.scale


def save_reward(model: RewardModel, tokenizer: Any, folder: Path, base_sha256: str = "") -> None:
    """Write the model, merged; the adapters that it was trained with are kept beside it, for use over their base."""
    if not ranks.current().is_first:
        return
    if hasattr(model.network, "peft_config"):
        _save_adapters(model.network, folder / ADAPTERS, base_sha256)
    save(model.network, tokenizer, folder)
    record = {field.name: getattr(model, field.name) for field in fields(model) if field.name != "network"}
    (folder / REWARD_FILE).write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")


def _save_adapters(network: Any, folder: Path, base_sha256: str) -> None:
    network.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # Sets in the order of their hashes, and a path: the same adapters would not be the same bytes.
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    for name, content in (("adapter_config.json", config), (BASE_FILE, {"sha256": base_sha256})):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()
def score_examples(model: RewardModel, examples: Sequence[Example], batch_tokens: int = 2048) -> np.ndarray:
    """Normalised scores, float64 [len(examples)]."""
    return _batched(model.forward, examples, batch_tokens)


def score_weighed(
    model: RewardModel, examples: Sequence[Example], weights: Sequence[Mapping[str, float]]
) -> np.ndarray:
    """Scores by weights of the heads that each example brings, float64 [len(examples)]."""
    weights_BK = np.array([[each[name] for name in model.objectives] for each in weights])
    tokens_B = np.array([len(example.reply_ids) for example in examples])
    scores_B: np.ndarray = (score_heads(model, examples) * weights_BK).sum(1)
    return scores_B - model.length_slope * tokens_B - model.shift


def lead(model: RewardModel, first: Sequence[Example], second: Sequence[Example]) -> np.ndarray:
    """Normalised scores of the first examples less those of the second ones, [len(first)]."""
    first_B, second_B = np.split(score_examples(model, [*first, *second]), [len(first)])
    gaps: np.ndarray = first_B - second_B
    return gaps


@torch.no_grad()
def score_heads(model: RewardModel, examples: Sequence[Example], batch_tokens: int = 2048) -> np.ndarray:
    """Scores of the heads, float64 [len(examples), K]; see RewardModel for how they make up the score."""
    return _batched(model.heads, examples, batch_tokens)


def _batched(score: Callable[[list[Example]], Tensor], examples: Sequence[Example], batch_tokens: int) -> np.ndarray:
    """Equal examples are scored once, and replies to one prompt side by side, where packing.py shares the prompt."""
    once, places = distinct(examples)
    found: list[np.ndarray] = [np.empty(0)] * len(once)
    for rows in measured_batches(once, batch_tokens):
        for i, value in zip(rows, score([once[i] for i in rows]).cpu().numpy(), strict=True):
            found[i] = value
    return np.array([found[place] for place in places], dtype=np.float64)
