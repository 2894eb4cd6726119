"""Models as plain transformers folders: building, loading, saving. Reward models: reward_model.py.

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
from tasks.rlhf.logprobs import logits, reply_states, unwrapped
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


def load_base(params: ModelOptions, tokenizer: Any, seed: int) -> Any:
    """The model everything starts from: a new tiny Llama, a local folder, or a pinned model of the hub."""
    if params.base == "scratch":
        if params.lora is not None and params.lora.quantize is not None:
            raise ValueError(
                f"params.yaml: model.lora.quantize = {params.lora.quantize!r}: model.base = scratch has no weights to "
                "load; set it to null, or give a model"
            )
        return placed(_scratch(params, tokenizer, seed))
    from transformers import AutoModelForCausalLM

    local = Path(params.base).is_dir()
    if not local and params.revision is None:
        raise ValueError(
            f"params.yaml: model.base = {params.base!r} is no local folder, and model.revision is null: "
            "give the path of an existing folder, or pin the hub model by its commit"
        )
    revision = None if local else params.revision
    arguments = quantized(params.lora, params.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        params.base, revision=revision, dtype=getattr(torch, params.dtype), **arguments
    )
    if (room := max_tokens(model)) is not None and params.max_length > room:
        raise ValueError(
            f"params.yaml: model.max_length = {params.max_length}: {params.base} has room for {room} tokens "
            "(max_position_embeddings); lower it"
        )
    model.revision = revision  # to load the same weights again (quantize.py)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        if arguments:
            raise ValueError(
                "params.yaml: model.lora.quantize = 'nf4': the tokenizer has more tokens than the model, whose weights "
                "would have to be changed; set it to null"
            )
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = placed(_settle(model, tokenizer))
    _check_logits(model, params.base)
    return model


def max_tokens(model: Any) -> int | None:
    """Of prompt and reply, that the model has positions for; None where it does not say."""
    room: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return room


@torch.no_grad()
def _check_logits(model: Any, name: str) -> None:
    """Training and sampling compute logits themselves (logprobs.logits): they have to be the model's own."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    own = model.eval()(input_ids=ids).logits[0].float().log_softmax(-1)
    found = logits(model, unwrapped(model).base_model(input_ids=ids).last_hidden_state[0]).log_softmax(-1)
    gap = float((own - found).abs().max())
    if not gap < (1e-3 if model.dtype == torch.float32 else 0.25):
        raise ValueError(
            f"params.yaml: model.base = {name!r}: a model of type {model.config.model_type} does something unknown to "
            f"what its head gives (log-probs differ by {gap:.3g} nats); choose a model of another type"
        )


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


def _scratch(params: ModelOptions, tokenizer: Any, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_layers,
        num_attention_heads=params.num_heads,
        max_position_embeddings=params.max_length,
        tie_word_embeddings=True,
        dtype=params.dtype,
    )
    return _settle(LlamaForCausalLM(config).to(getattr(torch, params.dtype)), tokenizer)


def _settle(model: Any, tokenizer: Any) -> Any:
    """Make model and tokenizer agree on the special tokens, and generation plain sampling."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError("data/tokenizer: pad and eos must be two tokens, or the policy never learns to stop")
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.bos_token_id = tokenizer.bos_token_id
    return model


def existing(folder: Path) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model there; run the stage that writes it (`dvc repro`)")
    return folder
