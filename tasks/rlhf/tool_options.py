"""What replies may call while they are sampled: the section `align.tools`. Imports no torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tasks.hashes import content_hash
from tasks.rlhf.options import Count, Options
from tasks.rlhf.rewards_options import in_inputs


class ToolsOptions(Options):
    names: list[Literal["calculator", "python", "search"]] = Field(default_factory=list)  # none: replies call nothing
    max_calls: Count = 2  # in a reply; later ones are text like any other
    max_result_tokens: Count = 32  # of a result; what is longer is cut
    corpus: str | None = None  # JSONL file in data/inputs that `search` reads: rows {"id", "text"}

    @field_validator("names")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a tool twice")
        return value

    @field_validator("corpus")
    @classmethod
    def _for_search(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is not None) != ("search" in info.data.get("names", ())):
            raise ValueError("belongs to the tool search: give it there, and null elsewhere")
        return None if value is None else in_inputs(value)

    def decide(self, inputs: Path) -> dict[str, Any]:
        """What replies may call, for data/objective.json; nothing where they call nothing."""
        if not self.names:
            return {}
        corpus = {} if self.corpus is None else {"corpus_sha256": content_hash(inputs / self.corpus)}
        return {"tools": self.model_dump(mode="json") | corpus}
