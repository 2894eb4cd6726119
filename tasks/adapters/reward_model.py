"""The registered reward model: MLflow runs this file (models from code), so it imports nothing of this project.

In: a table with `prompt` (JSON list of {role, content}) and `reply`. Out: one normalised score per row, the mean
over the members of an ensemble.
"""

import json
import math
from pathlib import Path
from typing import Any

import mlflow
import pandas  # by this type hint MLflow knows a table, and warns of nothing
from mlflow.pyfunc import PythonModel


class RewardModel(PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        from transformers import AutoTokenizer

        self.members = []
        for folder in (Path(path) for _, path in sorted(context.artifacts.items())):
            settings = json.loads((folder / "reward.json").read_text(encoding="utf-8"))
            self.members.append((AutoTokenizer.from_pretrained(folder), _body(folder), _head(folder), settings))

    def predict(self, context: Any, model_input: pandas.DataFrame, params: Any = None) -> list[float]:
        return [self._score(str(row.prompt), str(row.reply)) for row in model_input.itertuples()]

    def _score(self, prompt: str, reply: str) -> float:
        """The heads are read at the last token of prompt + reply + eos, or as the mean over the reply's tokens; their
        weighted sum, less what is length."""
        import torch

        scores = []
        for tokenizer, body, head_KD, settings in self.members:
            text = tokenizer.apply_chat_template(json.loads(prompt), tokenize=False, add_generation_prompt=True)
            prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            reply_ids = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                hidden_LD = body(input_ids=torch.tensor([prompt_ids + reply_ids])).last_hidden_state[0]
                read_D = hidden_LD[len(prompt_ids) :].mean(0) if settings["pooling"] == "mean" else hidden_LD[-1]
                heads = (head_KD @ read_D).float().tolist()
            if (bound := settings["bound"]) is not None:
                heads = [bound * math.tanh(head / bound) for head in heads]
            # The heads stand in the order of their sorted names, as the keys of the file do.
            weights = settings["objectives"].values()
            score = sum(head * weight for head, weight in zip(heads, weights, strict=True))
            scores.append(score - settings["length_slope"] * len(reply_ids) - settings["shift"])
        return float(sum(scores) / len(scores))


def _body(folder: Path) -> Any:
    """The model without its heads, for some of which transformers has no classifier."""
    from transformers import AutoModel
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # else it reports the heads as unexpected
    try:
        return AutoModel.from_pretrained(folder).eval()
    finally:
        logging.set_verbosity(level)


def _head(folder: Path) -> Any:
    """The heads' weights, [K, D]."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if "score.weight" in file.keys():  # noqa: SIM118 - no mapping
                return file.get_tensor("score.weight")
    raise FileNotFoundError(f"{folder}: no weights of a reward model's heads (score.weight) in its *.safetensors")


mlflow.models.set_model(RewardModel())
