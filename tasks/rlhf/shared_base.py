"""Several models over one frozen base in memory: each has modules and adapters of its own, and the base's tensors.

Nothing is switched on and off: what a model computes never depends on which other one was used last, also not in a
backward pass that computes layers again (recompute.py).
"""

import copy
import json
from pathlib import Path
from typing import Any

from tasks.hashes import content_hash
from tasks.rlhf import classifiers
from tasks.rlhf.reward_model import ADAPTERS, BASE_FILE, REWARD_FILE, RewardModel


def sharing(base: Any) -> Any:
    """A copy of the model whose parameters and buffers are those of `base`, not copies of them."""
    tensors = [*base.parameters(), *base.buffers()]
    return copy.deepcopy(base, {id(tensor): tensor for tensor in tensors})


def reward_over(base: Any, sft: Path, folder: Path) -> RewardModel:
    """The reward model in `folder` as its adapters and head over `base`, which is the model in `sft`.

    Scores are those of `reward_model.load_reward` but for the rounding of merged weights. ValueError where the folder
    keeps no adapters, or those of another base.
    """
    from peft import PeftModel
    from transformers import AutoConfig

    if not (folder / ADAPTERS).is_dir():
        raise ValueError(
            f"params.yaml: align.one_base = true: {folder} keeps no adapters: run `dvc repro reward` with model.lora, "
            "or set one_base to false"
        )
    made_over = json.loads((folder / ADAPTERS / BASE_FILE).read_text(encoding="utf-8"))["sha256"]
    if made_over != content_hash(sft):
        raise ValueError(f"{folder / ADAPTERS}: adapters over another model than {sft}: run `dvc repro reward`")
    network = classifiers.outline(AutoConfig.from_pretrained(folder), base.dtype)  # its own body is never made
    setattr(network, network.base_model_prefix, sharing(base.base_model))
    network.score = network.score.to_empty(device=base.device)
    adapted = PeftModel.from_pretrained(network, folder / ADAPTERS).eval()
    adapted.requires_grad_(False)
    saved = json.loads((folder / REWARD_FILE).read_text(encoding="utf-8"))
    return RewardModel(adapted, **saved)
