"""The score of a reply: reward models and the prompts' verifiers, each part by itself (`align.rewards`)."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from tasks.rlhf import reward_model, solution_models, verification
from tasks.rlhf.batch import Example, Prompt, ScorePart
from tasks.rlhf.reward_model import RewardModel
from tasks.rlhf.rewards_options import RewardsOptions
from tasks.rlhf.solution_models import SolutionModel

VETOED = -3.0  # a learned score: three standard deviations below the mean of the SFT policy's replies
Decode = Callable[[list[Sequence[int]]], list[str]]  # the texts of replies, without special tokens


@dataclass
class Scorer:
    """What scores replies: a `Score` of tasks/rlhf/experience.py."""

    options: RewardsOptions
    models: Sequence[RewardModel]
    decode: Decode
    resources: verification.Resources
    solution_models: Sequence[SolutionModel] = ()
    kinds: Counter[str] = field(default_factory=Counter)  # of the verifiers of the prompts that `scorable` saw
    _verifiers: dict[str | None, verification.Verify | None] = field(default_factory=dict)

    def __call__(self, examples: Sequence[Example], prompts: Sequence[Prompt]) -> dict[str, ScorePart]:
        parts: dict[str, ScorePart] = {}
        verdicts_B = self._verdicts(examples, prompts) if self.options.asks_verifiers else None
        if self.models:
            members = [_scores(model, examples, prompts) for model in self.models]
            values_B = aggregate(members, self.options)
            if self.options.veto:
                assert verdicts_B is not None
                values_B = vetoed(values_B, verdicts_B)
            mean_B = np.mean(members, axis=0)
            parts["reward_model"] = ScorePart(values_B, self.options.learned, learned=True, members_B=mean_B)
        if verdicts_B is not None:
            parts["verifier"] = ScorePart(verdicts_B, weight=self.options.verifier)
        for model in self.solution_models:
            parts[model.kind] = model.part(
                examples, prompts, getattr(self.options, model.kind), self.options.process_reply
            )
        return parts

    def scorable(self, prompts: Sequence[Prompt], where: str) -> list[Prompt]:
        """The prompts whose replies something can score: all of them where there is a preference reward model.

        Raises ValueError, naming prompt and key, for a verifier that is not what its kind wants, and where no prompt
        is left; `where` is the prompts' file.
        """
        domains = frozenset[str]().union(*(model.domains for model in self.solution_models))
        found = [prompt for prompt in prompts if self._is_checked(prompt, where) or prompt.domain in domains]
        if self.kinds["tests"] and self.resources.run_code:
            self.resources.run_code("")  # refused here, and not in the first rollout
        if self.options.learned > 0:
            return list(prompts)
        if prompts and not found:
            wanted = []
            if self.options.asks_verifiers:
                wanted.append(f"a verifier of a known kind ({', '.join(verification.files())})")
            if self.solution_models:
                wanted.append(
                    f"a domain that {', '.join(self.options.solution_models)} learned ({', '.join(sorted(domains))})"
                )
            raise ValueError(
                f"{where}: none of {len(prompts)} prompts has {' or '.join(wanted)}; add such prompts, or raise "
                "align.rewards.learned"
            )
        return found

    def _is_checked(self, prompt: Prompt, where: str) -> bool:
        """Whether a verifier that is asked can check replies to the prompt; its kind is counted."""
        if not self.options.asks_verifiers:
            return False
        try:
            verify = self._verifier(prompt.verifier)
        except ValueError as error:
            raise ValueError(f"{where}: prompt {prompt.id}: verifier: {error}") from None
        if verify is not None:
            self.kinds[json.loads(prompt.verifier or "")["kind"]] += 1
        return verify is not None

    def _verdicts(self, examples: Sequence[Example], prompts: Sequence[Prompt]) -> np.ndarray:
        """What each prompt's verifier says, float64 [B]; NaN where there is none."""
        texts = self.decode([example.reply_ids for example in examples])
        verifiers = [self._verifier(prompt.verifier) for prompt in prompts]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # programs run beside each other
            verdicts = pool.map(lambda verify, text: np.nan if verify is None else verify(text), verifiers, texts)
            return np.array(list(verdicts), dtype=np.float64)

    def _verifier(self, text: str | None) -> verification.Verify | None:
        if text not in self._verifiers:
            self._verifiers[text] = verification.load(text, self.resources)
        return self._verifiers[text]


def _scores(model: RewardModel, examples: Sequence[Example], prompts: Sequence[Prompt]) -> np.ndarray:
    """By the weights that the prompts say, where they do (conditioning.py): then of the prompts without them."""
    conditions = [prompt.condition for prompt in prompts if prompt.condition is not None]
    if not conditions:
        return reward_model.score_examples(model, examples)
    plain = [Example(said.plain_ids, each.reply_ids) for each, said in zip(examples, conditions, strict=True)]
    return reward_model.score_weighed(model, plain, [said.weights for said in conditions])


def build(
    options: RewardsOptions,
    folders: Sequence[Path],
    dtype: str,
    decode: Decode,
    inputs: Path,
    run_code: verification.RunCode,
    load: Callable[[Path], RewardModel] | None = None,
) -> Scorer:
    """The scorer over the models in `folders`, members by `load` or whole; `inputs` holds the tables."""
    resources = verification.Resources(read_tables(options.tables, inputs), run_code)
    of_solutions = [folder for folder in folders if folder.name in options.solution_models]
    members = [folder for folder in folders if folder not in of_solutions]
    return Scorer(
        options,
        load_models(members, options, dtype, load) if members else [],
        decode,
        resources,
        [solution_models.load(folder, dtype) for folder in of_solutions],
    )


def vetoed(scores_B: np.ndarray, verdicts_B: np.ndarray) -> np.ndarray:
    """Learned scores that put every reply that its verifier calls wrong (0) below every other that has a verdict.

    Replies without a verdict (NaN) keep their score. Hand-worked: scores 2, -1.2 and -5, verdicts 0, 1 and 1: -3, -1.2
    and -3.
    """
    floored_B = np.where(verdicts_B > 0, np.maximum(scores_B, VETOED), scores_B)
    return np.where(verdicts_B == 0, np.minimum(scores_B, VETOED), floored_B)


def aggregate(members: Sequence[np.ndarray], options: RewardsOptions) -> np.ndarray:
    """One score per reply from those of the members, float64 [B].

    `min` is worst-case optimisation of Coste 2024, arXiv:2310.02743, `mean_minus_std` its uncertainty-weighted kin with
    the standard deviation for the variance, so that `std_weight` has no unit. The deviation is that of the members
    themselves (biased). Hand-worked: 1 and 3: mean 2, min 1, deviation 1; with std_weight 0.5: 1.5.
    """
    if options.aggregate == "min":
        return np.asarray(np.min(members, axis=0))
    mean_B = np.mean(members, axis=0)
    if options.std_weight is None:
        return np.asarray(mean_B)
    return np.asarray(mean_B - options.std_weight * np.std(members, axis=0))


def load_models(
    folders: Sequence[Path],
    options: RewardsOptions,
    dtype: str,
    load: Callable[[Path], RewardModel] | None = None,
) -> list[RewardModel]:
    """The reward models, with the weights of their heads that the options ask for."""
    load = load or partial(reward_model.load_reward, dtype=dtype)
    return [_weighed(load(folder), options.heads, folder) for folder in folders]


def _weighed(model: RewardModel, heads: Mapping[str, float], folder: Path) -> RewardModel:
    """The scale of the score stays that of the weights in training: mean 0 and deviation 1 hold for those alone."""
    if not heads:
        return model
    if heads.keys() != model.objectives.keys():
        raise ValueError(
            f"params.yaml: align.rewards.heads names {', '.join(sorted(heads))}; {folder} has the heads "
            f"{', '.join(model.objectives)} (reward.objectives)"
        )
    return replace(model, objectives={name: heads[name] for name in model.objectives})


def read_tables(tables: Mapping[str, str], inputs: Path) -> dict[str, list[verification.Row]]:
    """The tables that verifiers look things up in: an object per line."""
    return {name: _read_rows(inputs / file, name) for name, file in tables.items()}


def _read_rows(path: Path, name: str) -> list[verification.Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; params.yaml names it as align.rewards.tables.{name}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: must be a JSON object, not {type(row).__name__}")
        rows.append(row)
    return rows
