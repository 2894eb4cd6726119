"""Models as plain transformers folders: loading, saving. The first: base_model.py; reward models: reward_model.py.

Whatever was trained with adapters is merged before it is saved, so every folder loads with
`from_pretrained` alone.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.records import forget_environment
from tasks.rlhf import attention, ranks
from tasks.rlhf.batch import Example
from tasks.rlhf.compiled import compile_layers
from tasks.rlhf.logprobs import reply_states
from tasks.rlhf.options import LoraOptions, ModelOptions
from tasks.rlhf.quantize import merged, quantized
from tasks.rlhf.recompute import recompute_layers

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h; 2**25 bytes is the most that the second one takes
SHORT = 96  # tokens, up to which plain attention, forward and backward, beats the flash kernel on a CPU; equal at 128


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    # torch.use_deterministic_algorithms says the same but imports the compiler first: 1.5 s for every stage.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    # What it does besides, fill every new tensor with NaN, is 4% of a step of a small model; nothing here reads memory
    # that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if threads := os.environ.get("PLUMBLINE_THREADS"):
        torch.set_num_threads(int(threads))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc hold on to what is freed, for the next tensors of the same size.

    It gives large blocks back, and the system then fills each page of new ones with zeros: up to a third of the time
    of sampling and training a small model on a CPU.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(existing(folder))


def max_tokens(model: Any) -> int | None:
    """Of prompt and reply, that the model has positions for; None where it does not say."""
    room: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return room


def placed(model: Any) -> Any:
    """The model on the device to train on; one of 4-bit numbers has been loaded there.

    On a CPU attention is our own (attention.py), but for a model of short texts in float32, which gets the plain one:
    torch's flash kernel is made for long ones.
    """
    if getattr(model, "is_quantized", False):
        return model
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    is_short = getattr(model.config, "max_position_embeddings", SHORT + 1) <= SHORT
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        if is_short and model.dtype == torch.float32:
            model.set_attn_implementation("eager")
        else:
            attention.use(model)
    return model


def load_policy(folder: Path, dtype: str = "float32", lora: LoraOptions | None = None) -> Any:
    """A causal language model in eval mode; `lora`: the adapters that it is loaded for."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        existing(folder), dtype=getattr(torch, dtype), **quantized(lora, dtype)
    )
    return placed(model).eval()


def to_train(model: Any, options: ModelOptions, task: str = "CAUSAL_LM") -> Any:
    """The model as it is trained: with adapters, recomputed or compiled layers, where the options ask for them."""
    if options.gradient_checkpointing:
        recompute_layers(model)
    if options.compile:
        compile_layers(model)
    return add_lora(model, options.lora, task)


def add_lora(model: Any, params: LoraOptions | None, task: str = "CAUSAL_LM") -> Any:
    """The model with fresh adapters on every linear layer of its body; the model itself without `params`."""
    if params is None:
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules="all-linear",
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )
    return get_peft_model(model, config)


def disable_dropout(model: Any) -> None:
    """Switch off the body's own dropout, in place; adapters keep the one they were given.

    With it a policy that is still its reference would differ from it by noise.
    """
    for name, module in model.named_modules():
        if "lora_" not in name:
            for key, value in vars(module).items():
                if isinstance(value, float) and ("dropout" in key or isinstance(module, torch.nn.Dropout)):
                    setattr(module, key, 0.0)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (adapters merged), configuration and tokenizer to `folder`; of several processes the first does."""
    if not ranks.current().is_first:
        return
    if hasattr(model, "merge_and_unload"):
        model = merged(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    forget_environment(folder)


class Critic(torch.nn.Module):
    """State values of reply tokens: the body of a language model under a scalar head that starts at zero."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head = torch.nn.Linear(model.config.hidden_size, 1, dtype=torch.float32, device=model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """Values before each reply token, end to end over the rows: float32 [N]."""
        hidden_ND, _ = reply_states(self.model, examples)
        values_N: Tensor = self.head(hidden_ND.float()).squeeze(-1)
        return values_N


def existing(folder: Path) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model there; run the stage that writes it (`dvc repro`)")
    return folder
