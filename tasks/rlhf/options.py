"""What can be chosen about a model and its training. Imports no torch, so that parameters are checked in a moment."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraOptions(Options):
    rank: Count
    alpha: Positive
    dropout: Share = 0.0
    quantize: Literal["nf4"] | None = None  # the frozen weights as 4-bit numbers (QLoRA); wants CUDA and bitsandbytes


class ModelOptions(Options):
    """The `model` section; the sizes are used with `base: scratch` only."""

    base: str  # "scratch", a local folder, or a name on the Hugging Face hub
    revision: str | None
    dtype: Literal["float32", "bfloat16"]
    max_length: Annotated[int, Field(gt=1)]  # tokens of prompt and reply together
    hidden_size: Count
    num_layers: Count
    num_heads: Count
    intermediate_size: Count
    vocab_size: Annotated[int, Field(gt=256)]  # a byte-level vocabulary starts with 256 bytes
    lora: LoraOptions | None
    gradient_checkpointing: bool = False  # recompute a layer's activations in the backward pass instead of keeping them
    compile: bool = False  # layers by torch.compile: pays for trainings of more than minutes

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.compile and (self.gradient_checkpointing or self.lora is not None):
            other = "lora" if self.lora is not None else "gradient_checkpointing"
            raise ValueError(f"compile = true: layers are compiled as they are, without {other}; set one of them aside")
        if self.base == "scratch" and self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size}: rotary positions want heads of an even size; with num_heads = "
                f"{self.num_heads} give a multiple of {2 * self.num_heads}"
            )
        return self


class OptimizerOptions(Options):
    """AdamW with linear warm-up, then cosine to zero."""

    lr: Positive  # at the peak
    warmup_share: Share = 0.05
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.98
    eps: Positive = 1e-8  # beside the root of the corrected second moment; larger is gentler on small gradients


class DatasetOptions(OptimizerOptions):
    """The loop over a fixed dataset."""

    num_epochs: Count
    batch_tokens: Count  # tokens per optimiser step, padding and replies compared again not counted
    micro_batch_tokens: Count = 65536  # tokens per forward pass: bounds memory, changes no result


class MarginOptions(Options):
    """How far apart the raw scores of a decided pair are asked to be."""

    source: Literal["confidence", "scores"]  # of the choice, or |score of a - score of b| as the data give them
    size: Positive  # raw score per unit of it


class ComparisonOptions(Options):
    """The loss of a comparison."""

    ties: Literal["half", "davidson", "rao_kupper"] = "half"  # a tie as the label 0.5, or as an outcome of its own
    tie_parameter: Positive | None = None  # nu of Davidson, theta of Rao-Kupper; null learns it
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # share of decided labels assumed flipped
    centering: NotNegative = 0.0  # weight of (r_a + r_b)^2
    l2: NotNegative = 0.0  # weight of r_a^2 + r_b^2

    @field_validator("tie_parameter")
    @classmethod
    def _has_ties(cls, value: float | None, info: ValidationInfo) -> float | None:
        ties = info.data.get("ties")
        if value is not None and ties == "half":
            raise ValueError("`ties: half` has no tie parameter: set it to null, or ties to davidson or rao_kupper")
        if value is not None and ties == "rao_kupper" and value <= 1:
            raise ValueError("theta of `ties: rao_kupper` must be above 1; at 1 there are no ties")
        return value


CHOICE = "choice"  # the objective that a rater's choice is about; those of other names come from a row's scores


class ScoreOptions(Options):
    """What a reward model reads its score from."""

    objectives: dict[str, float] = Field(default_factory=dict)  # weight of each head; empty: one head, on the choice

    pooling: Literal["last", "mean"] = "last"  # the last token, or the mean of a score per token of the reply
    bound: Positive | None = None  # every raw score lies between -bound and bound

    @field_validator("objectives")
    @classmethod
    def _weighed(cls, value: dict[str, float]) -> dict[str, float]:
        if zeros := [name for name, weight in value.items() if weight == 0]:
            raise ValueError(f"weight of {zeros[0]!r} is 0: leave the objective out")
        return value


class RewardOptions(DatasetOptions, ComparisonOptions, ScoreOptions):
    """Everything about a reward model. Fields below may be checked against those of the classes above."""

    margin: MarginOptions | None = None
    # YAML 1.1 reads a bare `off` as false.
    length_bias: Annotated[
        Literal["off", "residual", "balanced"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "off"
    canary_share: Share = 0.9  # of obvious preferences, to be exceeded by those told right; 0: not asked

    @field_validator("margin")
    @classmethod
    def _has_a_confidence(cls, value: MarginOptions | None, info: ValidationInfo) -> MarginOptions | None:
        objectives = info.data.get("objectives") or {CHOICE: 1.0}
        if value is not None and value.source == "confidence" and CHOICE not in objectives:
            raise ValueError(
                f"confidence is about the rater's choice, and objectives has no {CHOICE!r}: set margin to null or its "
                "source to scores"
            )
        return value

    @field_validator("length_bias")
    @classmethod
    def _one_label_to_balance(cls, value: str, info: ValidationInfo) -> str:
        if value == "balanced" and info.data.get("objectives"):
            raise ValueError("balanced weighs whole pairs by their one label; with objectives use residual or off")
        return value


class PreferenceOptions(DatasetOptions):
    """The loop over pairs, as an alignment algorithm."""

    sft_weight: NotNegative = 0.0  # weight of -log p(preferred reply) per token, which keeps it likely
    canary_share: Share = 0.9  # of obvious preferences, to be exceeded by those told right; 0: not asked


class RolloutOptions(OptimizerOptions):
    """The loop over fresh rollouts."""

    num_steps: Count  # rollouts
    prompts_per_step: Count
    replies_per_prompt: Count = 1
    max_redraws: Annotated[int, Field(ge=0)] = 0  # further draws to make up for prompts that the algorithm leaves out
    temperature: Positive = 1.0
    num_updates: Count = 4  # passes over a rollout
    num_minibatches: Count = 1
    micro_batch_tokens: Count = 65536  # tokens per forward pass: bounds memory, changes no result

    kl_coef: NotNegative  # cost of a nat of log(policy / reference); no default: it decides what is learned
    kl: bool = True  # a learned reward without a KL term is exploited: `kl_coef: 0` asks for `kl: off` as well
    kl_target: Positive | None = None  # nats per reply; then kl_coef adapts to it
    kl_horizon: Count = 10000  # replies over which the coefficient adapts
    kl_by_domain: dict[str, NotNegative] = {}  # factors on kl_coef for prompts of some domains

    missing_eos_penalty: NotNegative = 1.0  # taken off the score of a reply that did not finish
    length_penalty: NotNegative = 0.0  # taken off the score for each token of the reply

    max_kl_old_new: Positive = 0.1  # nats per token; beyond it the rollout's updates end early
    max_kl: Positive | None = None  # nats per reply, KL(policy || reference); beyond it the run ends early
    held_out_every: Count | None = None  # steps between evaluations on held-out prompts; null: none
    held_out_prompts: Count = 128
    patience: Count | None = None  # evaluations without a better score while KL grows, after which the run ends early

    max_first_score: Positive | None = 1.0  # |mean learned score| of the reference's replies; null: unchecked
    min_finished: Annotated[float, Field(ge=0, le=1)] = 0.05  # share of replies that end; fewer stop the run

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.kl and self.kl_coef == 0:
            raise ValueError(
                "kl_coef = 0: a learned reward without a KL term is exploited; give it a value > 0, or write `kl: off`"
            )
        if not self.kl and (self.kl_coef > 0 or self.kl_target is not None or self.kl_by_domain):
            raise ValueError("kl = off: set kl_coef to 0, kl_target to null and remove kl_by_domain, or remove `kl`")
        replies = self.prompts_per_step * self.replies_per_prompt * (1 + self.max_redraws)
        if self.kl_target is not None and self.kl_horizon <= replies:  # at a fifth of them the coefficient changes sign
            raise ValueError(
                f"kl_horizon = {self.kl_horizon}: a step of {replies} replies would change kl_coef by a fifth and "
                f"more; give at least {replies + 1}, or set kl_target to null"
            )
        if self.patience is not None and self.held_out_every is None:
            raise ValueError(f"patience = {self.patience}: counts evaluations; give held_out_every too")
        if self.num_minibatches > self.prompts_per_step:
            raise ValueError(
                f"num_minibatches = {self.num_minibatches}: a minibatch holds whole prompts, and there are "
                f"prompts_per_step = {self.prompts_per_step}"
            )
        return self


class CriticOptions(RolloutOptions):
    """The loop over fresh rollouts with a critic."""

    critic_lr: Positive = 1e-3
    critic_warmup: Annotated[int, Field(ge=0)] = 0  # first rollouts that train the critic alone
    value_coef: Positive = 1.0  # on the critic's loss; its optimiser is its own, so only max_grad_norm sees it

    @model_validator(mode="after")
    def _leave_steps(self) -> Self:
        if self.critic_warmup >= self.num_steps:
            raise ValueError(f"critic_warmup = {self.critic_warmup}: must leave some of num_steps = {self.num_steps}")
        return self
