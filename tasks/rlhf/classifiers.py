"""Networks of reward models: transformers' sequence classifiers, also of models that it has none for.

Granite, Cohere 2, OLMoE, Gemma 4 and others are there as language models alone.
"""

from pathlib import Path
from typing import Any

import torch


def load(folder: Path, **arguments: Any) -> Any:
    """The classifier in a folder, or a language model's body under a new head. Arguments of `from_pretrained`."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    _make_known(AutoConfig.from_pretrained(folder))
    return AutoModelForSequenceClassification.from_pretrained(folder, **arguments)


def outline(config: Any, dtype: torch.dtype) -> Any:
    """A classifier for this configuration, of weights that take no memory."""
    from transformers import AutoModelForSequenceClassification

    _make_known(config)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype)


def _make_known(config: Any) -> None:
    """Have transformers know a classifier for models of this type: their body under a linear head, as its own are."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoModelForSequenceClassification,
        PreTrainedModel,
    )
    from transformers.modeling_layers import GenericForSequenceClassification

    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    family = next(kind for kind in language_model.__mro__ if PreTrainedModel in kind.__bases__)
    name = language_model.__name__.replace("ForCausalLM", "ForSequenceClassification")
    content = {
        "__module__": language_model.__module__,
        "base_model_prefix": language_model.base_model_prefix,
        "config_class": type(config),
    }
    made = type(name, (GenericForSequenceClassification, family), content)
    # Without exist_ok transformers passes over types of its own.
    AutoModelForSequenceClassification.register(type(config), made, exist_ok=True)
