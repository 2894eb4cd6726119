"""A vLLM server over HTTP: requests that are retried where that helps, completions of token ids, and new weights.

Speaks as vLLM 0.30 does. Whole weights go by its development routes (VLLM_SERVER_DEV_MODE=1), adapters by
/v1/load_lora_adapter (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1). Both read a folder that learner and server share.
"""

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

KEY = "params.yaml: align.generation"
FOR_NOW = {408, 429, 502, 503, 504}  # statuses after which asking again may help
WAIT = 1.0  # seconds before the first retry; each later one waits twice as long


class ServerError(ValueError):
    """The server gave no answer that can be used; the message names key, value and remedy."""


class UnknownError(ServerError):
    """The server knows no such route, model or adapter."""


@dataclass(frozen=True)
class Server:
    """Where requests go, and how long they are tried."""

    url: str
    timeout: float = 300.0  # seconds
    retries: int = 3

    def call(self, path: str, body: dict[str, Any] | None = None, *, post: bool = True) -> Any:
        """The answer to a request, as JSON; None where it is empty. Raises ServerError, naming what was asked."""
        data = json.dumps(body or {}).encode() if post else None
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(WAIT * 2 ** (attempt - 1))
            request = urllib.request.Request(f"{self.url}{path}", data, headers, method="POST" if post else "GET")
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return _parsed(answer.read(), self.url, path)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {_message(error.read())}"
                if error.code == 404:
                    raise UnknownError(f"{KEY}.url = {self.url!r}: {path} answers {reason}") from None
                if error.code not in FOR_NOW:
                    raise ServerError(f"{KEY}.url = {self.url!r}: {path} answers {reason}") from None
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise ServerError(
            f"{KEY}.url = {self.url!r}: {path} failed {self.retries + 1} times, last with: {reason}; start the server, "
            "give it more time (timeout, retries), or set engine to builtin"
        )

    def get(self, path: str) -> Any:
        return self.call(path, post=False)

    def models(self) -> list[dict[str, Any]]:
        try:
            return list(self.get("/v1/models")["data"])
        except (TypeError, KeyError):
            raise ServerError(f"{KEY}.url = {self.url!r}: /v1/models lists no models: is this a vLLM server?") from None


def _parsed(text: bytes, url: str, path: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        raise ServerError(f"{KEY}.url = {url!r}: {path} answers no JSON: is this a vLLM server?") from None


def _message(text: bytes) -> str:
    """What an error's body says, in one line."""
    try:
        body = json.loads(text)
        body = body.get("error", body)
        said = body.get("message") or body.get("detail") or body if isinstance(body, dict) else body
    except (ValueError, AttributeError):
        said = text.decode(errors="replace")
    return " ".join(str(said).split())[:300]


@dataclass(frozen=True)
class Completion:
    ids: list[int]
    logprobs: list[float]  # of softmax(logits / temperature), in nats


def complete(
    server: Server, model: str, prompt: Sequence[int], *, max_tokens: int, temperature: float, seed: int, eos_id: int
) -> Completion:
    """One reply to a prompt, drawn from softmax(logits / temperature) over the whole vocabulary; EOS alone ends it."""
    answer = server.call(
        "/v1/completions",
        {
            "model": model,
            "prompt": list(prompt),
            "add_special_tokens": False,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop_token_ids": [eos_id],
            "ignore_eos": True,  # the server's own idea of it; ours is a stop token
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            # Said outright: what is left out, the server takes from the model's generation_config.json.
            **{"n": 1, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
            **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        },
    )
    return _checked(answer, server, model, list(prompt), max_tokens, eos_id)


def _checked(answer: Any, server: Server, model: str, prompt: list[int], most: int, eos_id: int) -> Completion:
    """The reply in an answer, proved to be one to what was asked."""

    def refuse(why: str) -> ServerError:
        return ServerError(f"{KEY}.url = {server.url!r}: /v1/completions {why}")

    try:
        choice = answer["choices"][0]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        asked, name = choice["prompt_token_ids"], answer["model"]
    except (KeyError, IndexError, TypeError):
        raise refuse("answers without token_ids or logprobs: use vLLM 0.12 or later") from None
    if name != model:
        raise refuse(f"answers for the model {name!r} instead of {model!r}")
    if asked != prompt:
        raise refuse("read other prompt tokens than were sent: the server must not change them")
    if not ids or len(ids) != len(logprobs) or not all(lp is not None and math.isfinite(lp) for lp in logprobs):
        raise refuse(f"answers {len(ids)} tokens with log-probs {logprobs[:8]}: each token needs one finite number")
    if len(ids) > most or (ids[-1] != eos_id and len(ids) < most) or eos_id in ids[:-1]:
        raise refuse(
            f"ended a reply of {len(ids)} tokens by {choice.get('finish_reason')!r}: only the EOS token {eos_id} or "
            f"max_new_tokens = {most} may; start it with --generation-config vllm"
        )
    return Completion(ids, logprobs)


class Weights(Protocol):
    """How new weights reach the server, and under which name it then answers."""

    def holds(self, version: str) -> bool: ...

    def load(self, folder: Path, version: str) -> None: ...

    def name(self, version: str) -> str: ...


@dataclass(frozen=True)
class WholeWeights:
    """The model's own weights, replaced in place from a transformers folder."""

    server: Server
    model: str

    def holds(self, version: str) -> bool:
        held: str = self._dev("/weight_info", post=False)["weight_version"]
        return held == version

    def load(self, folder: Path, version: str) -> None:
        self._dev("/pause?mode=abort")  # of earlier requests that nobody waits for any more
        self._dev("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        emptied = self._dev("/reset_prefix_cache")
        if isinstance(emptied, dict) and emptied.get("success") is False:  # older ones answer nothing
            raise ServerError(f"{KEY}.url = {self.server.url!r}: kept keys and values of old weights; restart it")
        self._dev("/update_weight_version", {"new_version": version})
        self._dev("/resume")

    def name(self, version: str) -> str:
        return self.model

    def _dev(self, path: str, body: dict[str, Any] | None = None, *, post: bool = True) -> Any:
        try:
            return self.server.call(path, body, post=post)
        except UnknownError as error:
            raise ServerError(f"{error}; start it with VLLM_SERVER_DEV_MODE=1, vLLM 0.30 or later") from None


@dataclass
class AdapterWeights:
    """Adapters over the model, which stays as it is. Each version has a name of its own: none is ever mistaken."""

    server: Server
    loaded: str | None = None

    def holds(self, version: str) -> bool:
        return any(model["id"] == version for model in self.server.models())

    def load(self, folder: Path, version: str) -> None:
        if self.loaded is not None and self.holds(self.loaded):
            self.server.call("/v1/unload_lora_adapter", {"lora_name": self.loaded})
        try:
            self.server.call("/v1/load_lora_adapter", {"lora_name": version, "lora_path": str(folder)})
        except ServerError as error:
            if self.holds(version):  # loaded at the first attempt, whose answer was lost
                self.loaded = version
                return
            raise ServerError(
                f"{error}; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and --max-lora-rank of at "
                "least model.lora.rank"
            ) from None
        self.loaded = version

    def name(self, version: str) -> str:
        return version
