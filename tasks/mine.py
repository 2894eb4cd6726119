"""mine: where the reward model is exploited: replies of the aligned policy that it scores high and a better judge low.

reads   data/models/{policy,reward,judge}  data/tokenizer  data/prepared/prompts/{train,dev}  data/inputs
writes  data/runs/mine/mined.jsonl: comparisons against a better reply of the policy, with their provenance

`python -m tasks.mine`; no stage of the graph, for what it finds comes from the policy that the graph ends in. The file
comes in by the front door, as any fresh shard: `make run FRESH=data/runs/mine/mined.jsonl`.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tasks import align
from tasks.adapters import sandbox, stage
from tasks.evaluation import held_out
from tasks.files import write_text
from tasks.hashes import content_hash
from tasks.preferences import canonical, screen, tokens
from tasks.records import MINED, Preference, read_table, row_id

Row = dict[str, Any]
Drawn = tuple[str, list[int]]  # a reply's text and its tokens
FOLDS = ("train", "dev")  # what the judge and the test measure by is not looked at
JUDGES = {"gold": 1.0, "verifier": 0.5, "judge": 1.0}  # by how much the better reply must lead: utils, verdict, nats
HASH = 12  # characters of a policy's hash in a source


@dataclass(frozen=True)
class Reply:
    text: str
    reward: float  # of the reward models, as align weighs them
    value: float  # of the better judge


class Judges:
    """Better judges than the reward models: the first of `names` that can judge a prompt's replies does."""

    def __init__(self, names: Sequence[str], params: align.Params, data: Path) -> None:
        self._names, self._params, self._data = names, params, data

    def values(self, prompt: Row, replies: Sequence[Drawn]) -> tuple[str, list[float]] | None:
        """Who judged, and what the replies are worth; None where nobody can."""
        for name in self._names:
            found = getattr(self, f"_{name}")(prompt, replies)
            if found is not None and None not in found:
                return name, found
        return None

    def rater(self, name: str) -> str:
        return f"judge@{content_hash(self._data / 'models/judge')[:HASH]}" if name == "judge" else name

    def _gold(self, prompt: Row, replies: Sequence[Drawn]) -> list[float | None]:
        return [held_out.gold(prompt, text) for text, _ in replies]

    def _verifier(self, prompt: Row, replies: Sequence[Drawn]) -> list[float] | None:
        from tasks.rlhf import verification

        verify = verification.load(prompt["verifier"], self._resources)
        return None if verify is None else [verify(text) for text, _ in replies]

    def _judge(self, prompt: Row, replies: Sequence[Drawn]) -> list[float]:
        """Raw scores, so that a lead is the log-odds of being preferred."""
        from tasks.rlhf.batch import Example
        from tasks.rlhf.reward_model import score_examples

        examples = [Example(prompt["prompt_ids"], ids) for _, ids in replies]
        return [float(score) * self._model.scale for score in score_examples(self._model, examples)]

    @cached_property
    def _resources(self) -> Any:
        from tasks.rlhf import rewards, verification

        options = self._params.rewards
        run_code = sandbox.runner(**options.sandbox.model_dump(), allow_unsandboxed=options.allow_unsandboxed)
        return verification.Resources(rewards.read_tables(options.tables, self._data / "inputs"), run_code)

    @cached_property
    def _model(self) -> Any:
        from tasks.rlhf import reward_model

        return reward_model.load_reward(self._data / "models/judge", self._params.model.dtype)


def mine(
    params: align.Params, data: Path, names: Sequence[str], num_prompts: int, num_replies: int
) -> list[Preference]:
    """At most one comparison a prompt, of replies that the reward models order wrongly."""
    from tasks.rlhf import models

    prompts = _prompts(data, num_prompts)
    tokenizer = models.load_tokenizer(data / "tokenizer")
    ids = _sample(params, data, tokenizer, prompts, num_replies)
    rewards = _rewards(
        params, data, [(prompt, reply) for prompt, own in zip(prompts, ids, strict=True) for reply in own]
    )
    high = float(np.median(rewards))
    judges, source = Judges(names, params, data), MINED + content_hash(data / "models/policy")[:HASH]
    found = []
    for prompt, own, scores in zip(prompts, ids, rewards.reshape(len(prompts), num_replies), strict=True):
        texts = tokenizer.batch_decode(own, skip_special_tokens=True)
        judged = judges.values(prompt, list(zip(texts, own, strict=True)))
        if judged is None:
            continue
        name, values = judged
        replies = [Reply(*each) for each in zip(texts, scores.tolist(), values, strict=True) if _can_be_a_row(each[0])]
        pair = most_wrong(replies, high, JUDGES[name])
        if pair is not None:
            found.append(_preference(prompt, pair, name, judges.rater(name), source))
    return found


def most_wrong(replies: Sequence[Reply], high: float, lead: float) -> tuple[Reply, Reply] | None:
    """(better, worse): worse has a reward of `high` or more, above better's, and better is worth `lead` more at least.

    Of several such pairs the one whose rewards differ most; None where there is none.
    """
    pairs = [
        (better, worse)
        for worse in replies
        for better in replies
        if worse.reward >= high and worse.reward > better.reward and better.value >= worse.value + lead
    ]
    return max(pairs, key=lambda pair: pair[1].reward - pair[0].reward, default=None)


def _can_be_a_row(text: str) -> bool:
    """Whether the screen of shards would take it: a policy that is still bad says control characters."""
    try:
        screen.check_text(text)
    except screen.RefusedError:
        return False
    return bool(text.strip())


def _preference(prompt: Row, pair: tuple[Reply, Reply], name: str, rater: str, source: str) -> Preference:
    better, worse = pair
    identity = row_id(MINED, prompt["prompt"], better.text, worse.text, rater)
    a_is_better = int(identity, 16) % 2 == 0
    lead = better.value - worse.value
    return Preference(
        id=f"mined-{identity}",
        prompt=prompt["prompt"],
        reply_a=(better if a_is_better else worse).text,
        reply_b=(worse if a_is_better else better).text,
        choice="a" if a_is_better else "b",
        confidence=float(np.tanh(lead / 2)) if name == "judge" else 1.0,  # 2 sigmoid(lead) - 1
        rater=rater,
        source=source,
        domain=prompt["domain"],
        cluster=prompt["cluster"],
    )


def _prompts(data: Path, number: int) -> list[Row]:
    """Of every fold the same share, the lowest hashes first."""
    rows = [row for fold in FOLDS for row in read_table(data / f"prepared/prompts/{fold}").to_pylist()]
    return sorted(rows, key=lambda row: row_id("mine", row["id"]))[:number]


def _sample(
    params: align.Params, data: Path, tokenizer: Any, prompts: Sequence[Row], number: int
) -> list[list[list[int]]]:
    from tasks.rlhf import conditioning, models, rollout

    policy = models.load_policy(data / "models/policy", params.model.dtype)
    asked = [prompt["prompt_ids"] for prompt in prompts]
    if shares := conditioning.at_evaluation(data / "models/policy", {}):  # it knows prompts with shares alone
        encode = tokens.Encoder(tokenizer).prompt
        asked = [encode(conditioning.conditioned(prompt["prompt"], shares)) for prompt in prompts]
    drawn = rollout.sample(
        policy,
        [ids for ids in asked for _ in range(number)],
        max_new_tokens=params.max_new_tokens,
        temperature=1.0,
        seed=params.seed,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    ids = [reply.ids for reply in drawn]
    return [ids[start : start + number] for start in range(0, len(ids), number)]


def _rewards(params: align.Params, data: Path, replies: Sequence[tuple[Row, list[int]]]) -> Any:
    from tasks.rlhf import rewards
    from tasks.rlhf.batch import Example
    from tasks.rlhf.reward_model import score_examples

    folders = sorted(path for path in (data / "models/reward").glob("*") if path.name.isdigit())
    members = rewards.load_models(folders, params.rewards, params.model.dtype)
    examples = [Example(prompt["prompt_ids"], ids) for prompt, ids in replies]
    return rewards.aggregate([score_examples(model, examples) for model in members], params.rewards)


def main(argv: list[str] | None = None) -> int:
    options, data = _arguments(argv), stage.DATA
    try:
        names = _judges(options.judges)
        if min(options.prompts, options.replies - 1) < 1:
            raise ValueError(f"--prompts {options.prompts} --replies {options.replies}: at least 1 and 2")
        params = stage.read_params(align.Params, "align")
        found = mine(params, data, names, options.prompts, options.replies)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: mine: {error}\n")
        return stage.BAD_INPUT
    raters = ", ".join(f"{number} by {rater}" for rater, number in sorted(Counter(row.rater for row in found).items()))
    sys.stdout.write(f"{len(found)} comparisons mined{': ' + raters if raters else ''}\n")
    if found:
        write_text(options.out, "".join(canonical.to_json(row) + "\n" for row in found))
        sys.stdout.write(f"take them in with: make run FRESH={options.out}\n")
    return 0


def _judges(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in JUDGES]:
        raise ValueError(f"--judges {text}: {unknown[0]!r} is none of {', '.join(JUDGES)}")
    return names


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tasks.mine", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=400, help="how many prompts the policy is asked")
    parser.add_argument("--replies", type=int, default=8, help="replies to each")
    parser.add_argument(
        "--judges",
        default="gold,verifier",
        help="who knows better: of gold, verifier, judge the first that can judge a prompt. With judge, what it says "
        "trains the reward model, and win rates by it are no independent evidence any more",
    )
    parser.add_argument("--out", type=Path, default=stage.DATA / "runs/mine/mined.jsonl", help="the file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os.environ |= {**stage.QUIET, **stage.threads_environment(os.environ.get("PLUMBLINE_THREADS"))}
    sys.exit(main())
