"""What changes during a run on rollouts, beside the weights of policy and critic; with them, all of a checkpoint."""

from dataclasses import dataclass, field

import numpy as np
import torch

from tasks.rlhf.experience import Learner
from tasks.rlhf.options import CriticOptions, RolloutOptions
from tasks.rlhf.stops import Patience
from tasks.rlhf.train_on_dataset import new_optimizer, warmup_cosine


class PromptDraws:
    """Prompts without replacement; when all have been used, a new order."""

    def __init__(self, count: int, seed: int) -> None:
        if count == 0:
            raise ValueError("data/prepared/prompts/train: no prompts to roll out; check the sources of ingest")
        self.generator = np.random.default_rng(seed)
        self.count = count
        self.left: list[int] = []

    def take(self, number: int) -> np.ndarray:
        while len(self.left) < number:
            self.left += self.generator.permutation(self.count).tolist()
        taken, self.left = self.left[:number], self.left[number:]
        return np.asarray(taken)


class KLController:
    """coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon. Ziegler 2019, arXiv:1909.08593, section 2.2."""

    def __init__(self, value: float, target: float | None, horizon: int) -> None:
        self.value, self.target, self.horizon = value, target, horizon

    def update(self, kl: float, num_replies: int) -> None:
        if self.target is not None:
            error = min(0.2, max(-0.2, kl / self.target - 1))
            self.value *= 1 + error * num_replies / self.horizon


@dataclass
class State:
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    critic_optimizer: torch.optim.Optimizer | None
    coef: KLController
    draws: PromptDraws
    generator: torch.Generator  # of the order within a pass
    patience: Patience = field(default_factory=Patience)
    step: int = 0  # rollouts begun


def new_state(learner: Learner, num_prompts: int, options: RolloutOptions, seed: int) -> State:
    trainable = [p for p in learner.policy.parameters() if p.requires_grad]
    optimizer = new_optimizer(trainable, options)
    steps, critic_optimizer = options.num_steps, None
    if learner.critic is not None:
        assert isinstance(options, CriticOptions)
        learned = [p for p in learner.critic.parameters() if p.requires_grad]
        critic_optimizer = new_optimizer(learned, options, options.critic_lr)
        steps -= options.critic_warmup
    return State(
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, options.warmup_share)),
        critic_optimizer=critic_optimizer,
        coef=KLController(options.kl_coef, options.kl_target, options.kl_horizon),
        draws=PromptDraws(num_prompts, seed),
        generator=torch.Generator().manual_seed(seed),
    )
