"""The loop over fresh rollouts: sample, score, compare with the reference, update; for every policy algorithm."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.rlhf import health, models, ranks
from tasks.rlhf.batch import Lesson, Prompt, Rollout, Tracker, join
from tasks.rlhf.experience import Learner, collect
from tasks.rlhf.options import RolloutOptions
from tasks.rlhf.state import State, new_state
from tasks.rlhf.stops import over_budget
from tasks.rlhf.train_on_dataset import Progress, check_finite, memory
from tasks.rlhf.update import update


def train_on_rollouts(
    learner: Learner,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    options: RolloutOptions,
    seed: int,
    tracker: Tracker,
) -> str | None:
    """Improve the policy, in place, for `options.num_steps` rollouts over prompts drawn without replacement.

    Returns why the run ended before that, if it did: its KL budget, or its patience with the held-out score.
    Checkpoints fall between two rollouts: one that was interrupted is drawn again from the same generators.
    """
    check_prompts(learner, prompts, held_out, options)
    ranks.refuse_shards("sampling replies")
    state = new_state(learner, len(prompts), options, seed)
    progress, stop = Progress(), None
    parts = {
        "policy": learner.policy,
        "critic": learner.critic,
        "state": state,
        "progress": progress,
        "tracker": tracker,
    }
    tracker.checkpoints.restore(parts)
    learner.traces.start(state.step)
    while state.step < options.num_steps and stop is None:
        state.step += 1
        with tracker.phase("sample"):
            rollout, lesson, metrics = fresh_rollout(learner, prompts, options, seed, state)
            learner.traces.write(state.step, "train")
        health.check_rollout(metrics, state.step, options, learner.policy.dtype)
        metrics |= {"kl_coef": state.coef.value, "lr": float(state.schedule.get_last_lr()[0])}
        stop = over_budget(metrics["kl"], options.max_kl, state.step)
        if stop is None:
            with tracker.phase("train"):
                metrics |= update(learner, rollout, lesson, options, state)
            check_finite(metrics, state.step)
            state.coef.update(metrics["kl"], options.prompts_per_step * options.replies_per_prompt)
            if options.held_out_every is not None and state.step % options.held_out_every == 0:
                with tracker.phase("held_out"):
                    metrics |= _on_held_out(learner, held_out, options, seed)
                    learner.traces.write(state.step, "dev")
                stop = state.patience.update(
                    metrics["held_out_score"], metrics["held_out_kl"], options.patience, state.step
                )
        progress.advance(int(rollout.reply_mask_BT.sum()))
        tracker.log(state.step, options.num_steps, **metrics)
        tracker.measure(state.step, options.num_steps, tokens_per_second=progress.tokens_per_second, **memory())
        if stop is None:
            tracker.checkpoints.save(state.step, parts)
    return stop


def check_prompts(
    learner: Learner, prompts: Sequence[Prompt], held_out: Sequence[Prompt], options: RolloutOptions
) -> None:
    """ValueError where the prompts are not what the options ask for, before any is answered."""
    if options.held_out_every is not None and not held_out:
        raise ValueError(
            f"held_out_every = {options.held_out_every}: data/prepared/prompts/dev has no prompts; raise "
            "folds.dev, or set held_out_every and patience to null"
        )
    longest = max((len(prompt.ids) for prompt in [*prompts, *held_out]), default=0) + learner.max_new_tokens
    room = models.max_tokens(learner.policy)
    if room is not None and longest > room:
        raise ValueError(
            f"align.max_new_tokens = {learner.max_new_tokens}: the longest prompt and its reply would have {longest} "
            f"tokens, the model has room for {room}; lower it or raise prepare.reply_room"
        )
    domains = {prompt.domain for prompt in prompts}
    for domain in options.kl_by_domain:
        if domain not in domains:
            raise ValueError(
                f"kl_by_domain.{domain}: no prompt has this domain; there are {', '.join(sorted(domains))}"
            )


def fresh_rollout(
    learner: Learner, prompts: Sequence[Prompt], options: RolloutOptions, seed: int, state: State
) -> tuple[Rollout, Lesson, dict[str, float]]:
    """A rollout and what it teaches; prompts that teach nothing are made up for by others, `max_redraws` times.

    The metrics are those of the first draw: of prompts that nothing has selected.
    """

    def draw(number: int, seed: int) -> tuple[Rollout, dict[str, float]]:
        return collect(learner, [prompts[i] for i in state.draws.take(number)], options, seed)

    def teach(rollout: Rollout) -> tuple[Lesson, int]:
        lesson: Lesson = learner.algorithm.advantages(rollout, state.coef.value, learner.config)
        return lesson, options.prompts_per_step - len(rollout.prompt_B[lesson.kept_B].unique())

    seed = seed * 1_000_003 + state.step
    rollout, metrics = draw(options.prompts_per_step, seed)
    lesson, missing = teach(rollout)
    for redraw in range(1, options.max_redraws + 1):
        if missing:
            rollout = join(rollout, draw(missing, seed + redraw * 1_000_000_007)[0])
            lesson, missing = teach(rollout)
    return rollout, lesson, metrics | {"kept": float(lesson.kept_B.float().mean())}


def _on_held_out(learner: Learner, held_out: Sequence[Prompt], options: RolloutOptions, seed: int) -> dict[str, float]:
    """Score and KL on the same held-out prompts, with the same random numbers, each time."""
    chosen = np.random.default_rng(seed).permutation(len(held_out))[: options.held_out_prompts]
    _, metrics = collect(
        replace(learner, critic=None),
        [held_out[i] for i in chosen],
        options.model_copy(update={"replies_per_prompt": 1}),
        seed,
    )
    return {"held_out_score": metrics["score"], "held_out_kl": metrics["kl"]}
