"""QLoRA: adapters over frozen weights that are kept as 4-bit numbers (NF4). Dettmers 2023, arXiv:2305.14314.

By bitsandbytes, an optional package (`pip install plumbline[quantize]`), on CUDA alone.
"""

import importlib.util
from typing import Any

import torch

from tasks.rlhf.options import LoraOptions


def quantized(lora: LoraOptions | None, dtype: str) -> dict[str, Any]:
    """What `from_pretrained` has to be told; nothing where weights stay as they are. ValueError where it cannot be."""
    if lora is None or lora.quantize is None:
        return {}
    missing = [] if torch.cuda.is_available() else ["a CUDA GPU"]
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes (`pip install 'plumbline[quantize]'`)")
    if missing:
        raise ValueError(
            f"params.yaml: model.lora.quantize = {lora.quantize!r}: this machine lacks {' and '.join(missing)}; set it "
            "to null to train adapters over whole weights"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=lora.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def merged(model: Any) -> Any:
    """The plain model, adapters merged into it: of one of 4-bit numbers, into the weights that these stand for."""
    if getattr(model.get_base_model(), "is_quantized", False):
        model = over_whole_weights(model)
    return model.merge_and_unload()


def over_whole_weights(model: Any) -> Any:
    """The same adapters over the weights as they were loaded from, on the CPU."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base = model.get_base_model()
    whole = type(base).from_pretrained(
        base.name_or_path, config=_plain(base.config), revision=getattr(base, "revision", None), dtype=base.dtype
    )
    adapted = get_peft_model(whole, model.peft_config[model.active_adapter])
    state = {name: value.cpu() for name, value in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(adapted, state)
    return adapted


def _plain(config: Any) -> Any:
    """A configuration without its quantisation."""
    values = config.to_dict()
    values.pop("quantization_config", None)
    return type(config).from_dict(values)
