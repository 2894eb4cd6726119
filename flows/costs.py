"""What a run will cost: the work of every training stage by params.yaml, and its seconds on a class of hardware."""

import importlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from flows import rows
from tasks.adapters import stage, workspace
from tasks.rlhf import algorithms, model_size, workload
from tasks.rlhf.hardware import GPUS, NAMES, Hardware, cpu, of_device
from tasks.rlhf.passes import Network, Work

TRAINING = ("sft", "collect", "reward", "judge", "solutions", "align", "evaluate")


@dataclass(frozen=True)
class Plan:
    """A params file, the folder of its data, and the hardware it is to run on; `here`: on this very machine."""

    path: Path
    data: Path
    hardware: Hardware
    here: bool
    given: Path | None = None  # the data that a recipe asks for

    @cached_property
    def document(self) -> dict[str, Any]:
        document = stage.read_yaml(self.path)
        for source in document["ingest"]["sources"]:
            if source.get("path") == workspace.DATA_MARK:
                if self.given is None:
                    raise ValueError(f"{self.path}: it asks for data; give them with --data PATH")
                source["path"] = str(self.given.resolve())
        return document

    @cached_property
    def _counted(self) -> tuple[workload.Rows, str]:
        return rows.count(self.document, self.data)

    @property
    def rows(self) -> workload.Rows:
        return self._counted[0]

    @property
    def said_of_rows(self) -> str:
        return self._counted[1]

    @cached_property
    def network(self) -> Network:
        model = self._params("sft").model
        rank, quantized = (model.lora.rank, model.lora.quantize is not None) if model.lora else (None, False)
        return Network(shape(model), model_size.BYTES[model.dtype], rank, quantized, model.gradient_checkpointing)

    @cached_property
    def algorithm(self) -> algorithms.Algorithm:
        section = self.document["align"]
        return algorithms.load(section["algorithm"], section.get(section["algorithm"]) or {})

    @cached_property
    def works(self) -> list[Work]:
        """One per training stage, in the order of the graph."""
        params = {name: self._params(name) for name in TRAINING}
        collect, reward, evaluate = params["collect"], params["reward"], params["evaluate"]
        members, align = len(reward.members), params["align"]
        # Verifiers run no network.
        scorers = (members if align.rewards.learned else 0) + len(align.rewards.solution_models)
        share = 1 - 1 / members if members > 1 else 1.0  # each leaves out its own prompts
        asked = rows.asked_by_collect(self.document, {fold: each.rows for fold, each in self.rows.prompts.items()})
        models = 2 + (params["sft"].model.base != "scratch") + (self.data / "champion/manifest.json").is_file()
        samples = (evaluate.num_samples, evaluate.num_safety_samples)
        return [
            workload.sft(self.network, self.rows, params["sft"]),
            workload.collect(self.network, self.rows, asked, collect.replies_per_prompt, collect.max_new_tokens),
            *(
                workload.reward(f"reward@{member}", self.network, self.rows, "train", reward, share)
                for member in reward.members
            ),
            workload.reward("judge", self.network, self.rows, "judge", params["judge"]),
            *(
                workload.solutions(f"solutions@{name}", self.network, self.rows, params["solutions"])
                for name in params["solutions"].train
            ),
            workload.align(self.network, self.rows, self.algorithm, scorers, align.max_new_tokens, align.one_base),
            workload.evaluate(
                self.network,
                self.rows,
                models,
                members + 1,
                samples,
                evaluate.max_new_tokens,
                implicit=self.algorithm.family == "preference",
            ),
        ]

    def peak_bytes(self, work: Work) -> float:
        return self.hardware.peak_bytes(work)

    def seconds(self, work: Work) -> float:
        """By the table, or by the tokens per second of an earlier run."""
        return self.hardware.seconds_of(work, self.network) * self.factor(work)

    def factor(self, work: Work) -> float:
        """Measured over tabulated seconds: of the stage itself or, where it says nothing, of the others' median."""
        found = self.calibration
        return found.get(work.stage, median(found.values())) if found else 1.0

    @cached_property
    def calibration(self) -> dict[str, float]:
        """Of each stage that trained the same model on this machine before: measured over tabulated seconds."""
        if not self.here:
            return {}
        return {work.stage: factor for work in self.works if (factor := self._measured_factor(work))}

    def _measured_factor(self, work: Work) -> float | None:
        measured = measured_of(self.data, work.stage)
        speed = measured.get("tokens_per_second")
        params = json.loads((self.data / f"reports/{work.stage}.json").read_text())["params"] if speed else {}
        model = self._params("sft").model.model_dump(mode="json")
        if not speed or params["model"] != model or params.get("algorithm", self.algorithm.name) != self.algorithm.name:
            return None
        if ("peak_gpu_memory_mb" in measured) != (self.hardware.name in GPUS):
            return None
        # The loops over datasets count the tokens trained on; that over rollouts, those sampled, by all it does.
        sampled = [each for each in work.passes if each.kind == "sample"]
        timed = work.passes if sampled else [each for each in work.passes if each.kind == "train"]
        tokens = (
            sum(each.sequences * each.reply for each in sampled[:1]) if sampled else sum(each.tokens for each in timed)
        )
        tabulated = sum(self.hardware.seconds(each, self.network) for each in timed)
        return float(tokens / speed / tabulated)

    def _params(self, name: str) -> Any:
        return stage.read_params(importlib.import_module(f"tasks.{name}").Params, name, self.path)


def measured_of(data: Path, name: str) -> dict[str, float]:
    """Rates and memory that an earlier run of a stage last measured; its peak memory from the sidecar, in MB."""
    folder = data / "runs" / name
    found: dict[str, float] = {}
    if not (data / f"reports/{name}.json").is_file():
        return {}
    if (folder / "telemetry.jsonl").is_file():
        for line in (folder / "telemetry.jsonl").read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)["metrics"]
    if (folder / "sidecar.json").is_file():
        found |= {"peak_memory_mb": json.loads((folder / "sidecar.json").read_text(encoding="utf-8"))["peak_memory_mb"]}
    return {key: found[key] for key in ("tokens_per_second", "peak_memory_mb", "peak_gpu_memory_mb") if key in found}


def shape(model: Any) -> model_size.Shape:
    """Of the model that a run starts from. ValueError where its configuration cannot be read."""
    if model.base == "scratch":
        return model_size.from_config({
            "model_type": "llama",
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "intermediate_size": model.intermediate_size,
            "tie_word_embeddings": True,
        })  # fmt: skip
    from tasks.rlhf.base_model import config_of

    config = config_of(model.base, model.revision)
    return model_size.from_config(config.to_dict())


def hardware(name: str | None) -> tuple[Hardware, bool]:
    """The class of that name, and whether it is this machine; None asks for this machine."""
    import psutil
    import torch

    present = "cpu"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        known = of_device(device)
        if known is None and name is None:
            raise ValueError(f"--hardware: {device} is not in the table; name one of {', '.join(NAMES)}")
        present = known or re.sub(r"\W+", "-", device)
    if name not in (None, *NAMES):
        raise ValueError(f"--hardware {name}: not in the table; it has {', '.join(NAMES)}")
    chosen = name or present
    machine = cpu(psutil.cpu_count() or 1, psutil.virtual_memory().total)
    return (machine if chosen == "cpu" else GPUS[chosen]), chosen == present
