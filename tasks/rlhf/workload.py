"""What every stage does with its networks: the passes of the loops, to their planned end.

A run that its KL budget or its patience ends early does less; redraws are not counted. What an algorithm asks for
(reference, critic, share of replies learned from) is asked of its file. A reply of several pairs is counted once, as it
is computed (batching.py). Replies to one prompt are counted with a prompt each, though those of a batch share its
computation (packing.py): of pairs too much is said, up to a third.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from tasks.rlhf.algorithms import Algorithm
from tasks.rlhf.batch import Rollout
from tasks.rlhf.options import DatasetOptions, RewardOptions, RolloutOptions
from tasks.rlhf.passes import Lengths, Network, Pass, Read, Work, join, measure, memory, sample, train

NORMALISED_ON = 2000  # SFT replies, as in dataset.read_sft_replies
MEASURED_ON = 2000  # pairs of the dev fold, as in reward.quality
IMPLICIT_ON = 500  # pairs of the test fold, as in evaluate


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What there is to learn from. Folds: train, judge, dev, test."""

    demonstrations: Lengths
    pairs: Mapping[str, Lengths]  # given, planted and collected
    planted: int = 0  # of the pairs that are trained on, by the canary
    feedback: Mapping[str, Lengths] = field(default_factory=dict)  # replies judged one by one
    prompts: Mapping[str, Lengths]  # `reply`: what a policy is expected to say
    solutions: Mapping[str, Lengths] = field(default_factory=dict)  # of the folds train and test
    conduct: Lengths  # safety prompts of the test fold


def sft(network: Network, rows: Rows, options: DatasetOptions) -> Work:
    step = _on_dataset("demonstrations", rows.demonstrations, options)
    return Work("sft", (step,), memory(network, 1, step=step))


def collect(network: Network, rows: Rows, prompts: Mapping[str, float], replies: int, max_new_tokens: int) -> Work:
    """`prompts`: how many of each fold are asked."""
    passes = tuple(
        sample(
            f"replies to prompts of {fold}", network, replace(rows.prompts[fold], rows=number * replies), max_new_tokens
        )
        for fold, number in prompts.items()
        if number
    )
    return Work("collect", passes, memory(network, 1, samples=passes))


def reward(stage: str, network: Network, rows: Rows, fold: str, options: RewardOptions, share: float = 1.0) -> Work:
    """A reward model on a share of the pairs of a fold."""
    replies = _of_pairs(rows.pairs[fold], share)
    step = _on_dataset("comparisons", replies, options, read="score")
    dev = rows.pairs["dev"]
    held_out = _of_pairs(replace(dev, rows=min(MEASURED_ON, dev.rows)))
    passes = [
        step,
        measure("SFT replies", replace(replies, rows=min(NORMALISED_ON, replies.rows)), read="score"),
        measure("dev pairs", held_out, read="score"),
    ]
    if options.length_bias == "residual":
        passes.append(measure("comparisons, for their length", replies, read="score"))
    return Work(stage, tuple(passes), memory(network, 1, step=step))


def solutions(stage: str, network: Network, rows: Rows, options: DatasetOptions) -> Work:
    """An outcome or a process reward model."""
    nothing = Lengths(0, 0, 0)
    step = _on_dataset("solutions", rows.solutions.get("train", nothing), options, read="score")
    held_out = measure("held-out solutions", rows.solutions.get("test", nothing), read="score")
    return Work(stage, (step, held_out), memory(network, 1, step=step))


def align(
    network: Network, rows: Rows, algorithm: Algorithm, members: int, max_new_tokens: int, one_base: bool = False
) -> Work:
    if algorithm.family == "preference":
        return _on_pairs(network, rows, algorithm)
    return _on_rollouts(network, rows, algorithm, members, max_new_tokens, one_base)


def evaluate(
    network: Network,
    rows: Rows,
    models: int,
    scorers: int,
    samples: tuple[int, int],
    max_new_tokens: int,
    implicit: bool = False,
) -> Work:
    """`models` answer the test prompts: so many replies to a plain prompt, and to one that calls for a conduct.

    `implicit`: the policy is asked about pairs, too.
    """
    test, pairs = rows.prompts["test"], _of_pairs(rows.pairs["test"])
    said = replace(test, rows=models * (test.rows * samples[0] + rows.conduct.rows * (samples[1] - samples[0])))
    drawn = sample("replies to test prompts", network, said, max_new_tokens)
    passes: tuple[Pass, ...] = (
        drawn,
        measure("scores", replace(said, rows=said.rows * scorers), read="score"),
        measure("log-probs of policy and SFT", replace(said, rows=2 * said.rows * (models - 1) / models)),
        measure("scores of test pairs", replace(pairs, rows=pairs.rows * scorers), read="score"),
    )
    if implicit:
        some = rows.pairs["test"]
        of_both = _of_pairs(replace(some, rows=2 * min(IMPLICIT_ON, some.rows)))
        passes = (*passes, measure("implicit rewards of test pairs", of_both))
    return Work("evaluate", passes, memory(network, 2 + scorers, samples=[drawn]))


def kept_share(algorithm: Algorithm) -> float:
    """The share of replies that an algorithm learns from where no two score the same: asked of the algorithm itself."""
    options: RolloutOptions = algorithm.options
    zeros_BT = torch.zeros(4 * options.replies_per_prompt, 2)
    rollout = Rollout(
        examples=[],
        prompt_B=torch.arange(4).repeat_interleave(options.replies_per_prompt),
        reply_mask_BT=torch.ones_like(zeros_BT, dtype=torch.bool),
        logprobs_BT=zeros_BT,
        reference_BT=zeros_BT,
        scores_B=torch.arange(float(len(zeros_BT))),
        values_BT=zeros_BT,
        kl_scale_B=torch.ones(len(zeros_BT)),
        max_new_tokens=2,
    )
    lesson = algorithm.module.advantages(rollout, options.kl_coef, algorithm.config)
    return float(lesson.kept_B.float().mean())


def _on_pairs(network: Network, rows: Rows, algorithm: Algorithm) -> Work:
    """Fixed pairs; or their replies one by one, and those that were judged so."""
    pairs, options, frozen = rows.pairs["train"], algorithm.options, algorithm.module.NEEDS_REFERENCE
    judged = [rows.feedback["train"]] if algorithm.unpaired and "train" in rows.feedback else []
    replies = join([_of_pairs(pairs), *judged])
    passes = [measure("log-probs of the reference", replies)] if frozen else []
    if algorithm.unpaired:  # the prompt of each verdict also stands before another's reply, for the reference point
        verdicts = join([replace(pairs, rows=2 * pairs.rows), *judged])
        again = replace(verdicts, rows=verdicts.rows * options.num_epochs)
        passes.append(measure("log-probs of the reference, mismatched", verdicts))
        passes.append(measure("log-probs of the policy, mismatched", again, options.batch_tokens))
    step = _on_dataset("replies" if algorithm.unpaired else "pairs", replies, options)
    copies = 1 + (frozen and network.lora_rank is None)  # adapters switched off are the reference
    return Work("align", (*passes, step), memory(network, copies, step=step))


def _on_rollouts(
    network: Network, rows: Rows, algorithm: Algorithm, members: int, max_new_tokens: int, one_base: bool
) -> Work:
    """Replies are sampled, scored by every member, measured by the reference (and the critic), and learned from."""
    options: RolloutOptions = algorithm.options
    critic = bool(algorithm.module.NEEDS_CRITIC)
    at_once = options.prompts_per_step * options.replies_per_prompt
    drawn = replace(rows.prompts["train"], rows=at_once * options.num_steps)
    passes = _experience(network, drawn, at_once, options, members, critic, max_new_tokens)
    if options.held_out_every is not None:
        asked = min(options.held_out_prompts, rows.prompts["dev"].rows)
        held_out = replace(rows.prompts["dev"], rows=asked * (options.num_steps // options.held_out_every))
        passes += _experience(network, held_out, asked, options, members, False, max_new_tokens)
    samples = [each for each in passes if each.kind == "sample"]
    share = kept_share(algorithm)
    learned = replace(samples[0], sequences=drawn.rows * share * options.num_updates)
    minibatch = at_once * share * (learned.prompt + learned.reply) / options.num_minibatches
    lengths = Lengths(learned.sequences, learned.prompt, learned.reply)
    step = train("updates of the policy", lengths, min(minibatch, options.micro_batch_tokens))
    updates = [step, train("updates of the critic", lengths, minibatch, read="values")] if critic else [step]
    copies = 1 + (network.lora_rank is None) + (0 if one_base else members + critic)  # adapters are small beside them
    held = memory(network, copies, step=step, samples=samples, critic=critic and not one_base)
    return Work("align", (*passes, *updates), held)


def _experience(
    network: Network,
    drawn: Lengths,
    at_once: float,
    options: RolloutOptions,
    members: int,
    critic: bool,
    max_new_tokens: int,
) -> list[Pass]:
    replies = sample("replies", network, drawn, max_new_tokens, at_once)
    said = Lengths(replies.sequences, replies.prompt, replies.reply)
    budget = min(options.micro_batch_tokens, at_once * (said.prompt + said.reply))
    passes = [
        replies,
        measure("scores", replace(said, rows=said.rows * members), 2048, read="score"),
        measure("log-probs of the reference", said, budget),
    ]
    return [*passes, measure("values of the critic", said, budget, read="values")] if critic else passes


def _on_dataset(what: str, rows: Lengths, options: DatasetOptions, read: Read = "logprobs") -> Pass:
    seen = replace(rows, rows=rows.rows * options.num_epochs)
    return train(what, seen, min(options.batch_tokens, options.micro_batch_tokens), read=read)


def _of_pairs(pairs: Lengths, share: float = 1.0) -> Lengths:
    """The replies of all, the prompt before each of them."""
    return replace(pairs, rows=pairs.replies * pairs.rows * share)
