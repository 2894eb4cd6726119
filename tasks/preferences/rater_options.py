"""What of a rater's habits counts as too much: a part of the parameters of `prepare`."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
# reliability: log-odds of being right, as the other raters show it. YAML 1.1 reads a bare `off` as false.
Weighting = Annotated[Literal["off", "reliability"], BeforeValidator(lambda value: "off" if value is False else value)]


class RaterOptions(BaseModel):
    """A rater `source:<name>` may be many people: nothing here is asked of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_share: Share = 0.3  # of a shard's votes by one rater; above, their votes weigh less
    max_votes_per_day: Count = 200  # by one rater; above, their votes weigh less
    # Of decided votes for the reply that was shown first (or second); above, they are held out.
    max_first_share: Annotated[float, Field(gt=0.5, le=1)] = 0.9
    min_seconds: Annotated[float, Field(ge=0)] = 2.0  # median time for a long comparison; below: held out
    long_chars: Count = 400  # of prompt and both replies, from which a comparison is long
    min_votes: Count = 30  # of a rater before anything is said of their habits
    reviewed: tuple[str, ...] = ()  # raters whom a person looked at: their votes are not held out
    attributes: str | None = None  # a file in data/inputs: what raters say of themselves (csv or JSON Lines)
    min_group: Annotated[int, Field(ge=2)] = 5  # raters of one group, below which nothing is told of it
