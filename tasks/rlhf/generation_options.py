"""What samples the replies of policy algorithms: the section `align.generation`. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tasks.rlhf.options import Count, Options, Positive


class GenerationOptions(Options):
    engine: Literal["builtin", "server"] = "builtin"  # tasks/rlhf/rollout.py, or a vLLM server
    url: Annotated[str | None, Field(validate_default=True)] = None  # of the server, as http://127.0.0.1:8000
    model: str | None = None  # the server's name for data/models/sft (--served-model-name); null: it serves one model
    weights: str | None = None  # folder that server and learner see by this path; null: data/runs/align/weights
    max_logprob_gap: Positive = 0.05  # nats per token, mean |server - learner| of log-probs; beyond it the run stops
    concurrency: Count = 64  # requests at a time, a reply each
    timeout: Positive = 300.0  # seconds for an answer
    retries: Annotated[int, Field(ge=0)] = 3  # of a request that failed for now: no connection, no answer, overload

    @field_validator("url")
    @classmethod
    def _of_a_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        served = info.data.get("engine") == "server"
        if (value is not None) != served:
            raise ValueError("belongs to `engine: server`: give it there, and null elsewhere")
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return None if value is None else value.rstrip("/").removesuffix("/v1")

    def decide(self) -> dict[str, Any]:
        """What samples, for data/objective.json; nothing where it is the built-in sampler. Not where it runs."""
        return {} if self.engine == "builtin" else {"generation": {"engine": self.engine}}
