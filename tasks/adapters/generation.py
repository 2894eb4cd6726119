"""Replies from a server instead of the built-in sampler (`align.generation`): a function like `rollout.sample`.

The weights that the server has are those of the policy, by a hash of them that it holds as its version: checked
before and after every rollout, sent where it is another. The log-probs of a reply are measured again by the learner,
so that ratios and KL compare like with like; how far the server's are off is logged, and beyond `max_logprob_gap` the
run stops: a server that draws from another distribution makes the updates off-policy without saying so (Yao 2025,
"On the Rollout-Training Mismatch in Modern RL Systems"). infra/decisions/0014-generation-by-a-server.md.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.adapters import vllm
from tasks.adapters.vllm import KEY
from tasks.rlhf import ranks, rollout
from tasks.rlhf.generation_options import GenerationOptions
from tasks.rlhf.logprobs import reply_logprobs
from tasks.rlhf.rollout import Reply

PROBE = "What is 3 + 4? Seven; 12 of 95 (naturally)."  # the server's tokens of it must be ours


@contextmanager
def engine(options: GenerationOptions, tokenizer: Any, folder: Path) -> Iterator[Callable[..., list[Reply]]]:
    """What draws replies; `folder` is where new weights are laid for a server. Raises ValueError where it cannot."""
    if options.engine == "builtin":
        yield rollout.sample
        return
    if ranks.current().count > 1:
        raise ValueError(f"{KEY}.engine = 'server': for one process, not {ranks.current().count}; set it to builtin")
    assert options.url is not None
    if options.weights is None:
        shutil.rmtree(folder, ignore_errors=True)  # what a run left that was killed
    folder = Path(options.weights or folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="plumbline-", dir=folder))  # nothing else in there is touched
    own.chmod(0o755)  # the server may be another user
    try:
        yield ServedPolicy(options, vllm.Server(options.url, options.timeout, options.retries), tokenizer, own)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@dataclass
class ServedPolicy:
    options: GenerationOptions
    server: vllm.Server
    tokenizer: Any
    folder: Path
    _weights: vllm.Weights | None = field(default=None, init=False)

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        eos_id: int,
        pad_id: int,
    ) -> list[Reply]:
        """One reply per prompt, in the order given."""
        model.eval()
        if self._weights is None:
            self._weights = self._met(model, max(map(len, prompts)) + max_new_tokens)
        drawn = self._drawn(model, prompts, seed, max_tokens=max_new_tokens, temperature=temperature, eos_id=eos_id)
        own = reply_logprobs(model, prompts, [reply.ids for reply in drawn], temperature)
        self._check_gap([reply.logprobs for reply in drawn], own)
        return [
            Reply(reply.ids, logprobs.tolist(), reply.ids[-1] == eos_id, drawn_logprobs=reply.logprobs)
            for reply, logprobs in zip(drawn, own, strict=True)
        ]

    def _drawn(self, model: Any, prompts: Sequence[Sequence[int]], seed: int, **settings: Any) -> list[vllm.Completion]:
        """Replies of the policy as it is. A server that is restarted meanwhile gets the weights and is asked again."""
        assert self._weights is not None
        version = fingerprint(model)
        for _ in range(2):
            if not self._weights.holds(version):
                self._send(model, version)
            try:
                replies = self._asked(self._weights.name(version), prompts, seed, **settings)
            except vllm.UnknownError:  # the adapters are gone
                continue
            if self._weights.holds(version):
                return replies
        raise ValueError(
            f"{KEY}.url = {self.server.url!r}: the server lost the weights {version} twice while it sampled: it is "
            "restarted again and again, or somebody else loads weights into it"
        )

    def _send(self, model: Any, version: str) -> None:
        assert self._weights is not None
        target = self.folder / version
        model.save_pretrained(target)
        self._weights.load(target, version)
        if not self._weights.holds(version):
            raise ValueError(f"{KEY}.url = {self.server.url!r}: the server took the weights {version} and has others")
        for old in self.folder.iterdir():
            if old != target:
                shutil.rmtree(old)

    def _asked(self, name: str, prompts: Sequence[Sequence[int]], seed: int, **settings: Any) -> list[vllm.Completion]:
        rows = (np.random.SeedSequence([seed % 2**64, row]) for row in range(len(prompts)))
        seeds = [int(row.generate_state(1, np.uint64)[0] >> np.uint64(1)) for row in rows]  # below 2^63
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            asked = [
                pool.submit(vllm.complete, self.server, name, prompt, seed=own, **settings)
                for prompt, own in zip(prompts, seeds, strict=True)
            ]
            try:
                return [reply.result() for reply in asked]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _met(self, model: Any, longest: int) -> vllm.Weights:
        """The way to give this server weights, once it has proved to be one for this model."""
        cards = [card for card in self.server.models() if not card.get("parent")]
        names = [card["id"] for card in cards]
        name = self.options.model or (names[0] if len(names) == 1 else None)
        if name is None or name not in names:
            raise ValueError(f"{KEY}.model = {self.options.model!r}: {self.server.url} serves {', '.join(names)}")
        room = cards[names.index(name)].get("max_model_len")
        if room is not None and room < longest:
            raise ValueError(
                f"{KEY}.url = {self.server.url!r}: the server has room for {room} tokens, and the longest prompt with "
                f"its reply has {longest}; raise its --max-model-len"
            )
        said = self.server.call("/tokenize", {"model": name, "prompt": PROBE, "add_special_tokens": False})["tokens"]
        own = self.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if said != own:
            raise ValueError(
                f"{KEY}.model = {name!r}: the server has another tokenizer than data/tokenizer ({said[:6]} for "
                f"{own[:6]}); start it on data/models/sft"
            )
        if hasattr(model, "peft_config"):
            return vllm.AdapterWeights(self.server)
        return vllm.WholeWeights(self.server, name)

    def _check_gap(self, drawn: Sequence[Sequence[float]], own: Sequence[np.ndarray]) -> None:
        gap = float(np.abs(np.concatenate([np.asarray(lps) for lps in drawn]) - np.concatenate(own)).mean())
        if not gap <= self.options.max_logprob_gap:
            raise ValueError(
                f"{KEY}.max_logprob_gap = {self.options.max_logprob_gap}: log-probs of the server are {gap:.3g} nats "
                "per token off those of the policy; start it on data/models/sft with --logprobs-mode "
                "processed_logprobs and the --dtype of model.dtype, or allow more"
            )


def fingerprint(model: Any) -> str:
    """Of the weights that the server is given: adapters where the policy has some, else all."""
    adapted = hasattr(model, "peft_config")
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not adapted or "lora_" in name:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"plumbline-{digest.hexdigest()[:16]}"
