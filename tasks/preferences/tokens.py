"""Tokens: a tokenizer of our own or the base model's, and messages and replies turned into ids exactly once.

A reply's ids never depend on its prompt's, so prompt + reply is always the concatenation of the two.
"""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks import chat
from tasks.records import ROLES, Message

PAD, EOS = "<pad>", "<eos>"
_PARALLEL = "TOKENIZERS_PARALLELISM"
_REMEMBERED = 4096  # encoded prompts
# Each turn opens with its role's token; a reply ends with <eos>, also where it is history.
TEMPLATE = (
    "{% for message in messages %}{{ '<' ~ message['role'] ~ '>' ~ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def train(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE (any text can be said in it) with the chat template above.

    The same texts in the same order give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    roles = [f"<{role}>" for role in ROLES]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, *roles],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=EOS, extra_special_tokens=roles)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load(base: str, revision: str | None) -> tuple[Any, bool]:
    """The tokenizer of a base model, and whether a padding token had to be added to it.

    Raises ValueError where it is missing or lacks what the pipeline needs.
    """
    from transformers import AutoTokenizer

    local = Path(base).is_dir()
    if not local and revision is None:
        raise ValueError(
            f"params.yaml: model.base = {base!r} is no local folder, and model.revision is null: give the path "
            "of an existing folder, or pin the hub model by its commit"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, revision=None if local else revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"params.yaml: model.base = {base!r}: no tokenizer can be loaded: {reason}") from None
    if not tokenizer.chat_template:
        raise ValueError(
            f"params.yaml: model.base = {base!r}: its tokenizer has no chat template; use an instruct model, or "
            "put a `chat_template.jinja` beside its tokenizer"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"params.yaml: model.base = {base!r}: its tokenizer has no end-of-sequence token")
    # Padding that looks like the end would teach a model never to stop, or be masked with it.
    added = tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id
    if added:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer, added


_Turns = tuple[tuple[str, str], ...]  # role and content of each


class Encoder:
    """Text to ids. Special tokens come from the template and the end of a reply alone, never from content."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = tokenizer
        self._template = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._content = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._content.encode_special_tokens = True  # "<eos>" in a text is five characters
        for backend in (self._template, self._content):
            backend.no_truncation()
            backend.no_padding()
        self._special = [
            token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values() if token.special
        ]
        self._end = tokenizer.eos_token_id
        self._prompt = lru_cache(_REMEMBERED)(self._encode_prompt)  # the same prompt comes with many replies
        self._replies: dict[str, list[int]] = {}
        self._prompts: dict[_Turns, list[int]] = {}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A prompt in the chat template, up to where the reply begins."""
        turns = _turns(messages)
        return list(self._prompts.get(turns) or self._prompt(turns))

    def reply(self, text: str) -> list[int]:
        """A reply with its end."""
        return self._replies.get(text) or [*self._ids(self._content, text), self._end]

    def remember(self, replies: Iterable[str], prompts: Iterable[Sequence[Message]] = ()) -> None:
        """Encode many at once; until the next call `reply` and `prompt` know them."""
        texts = list(dict.fromkeys(replies))
        encodings = _encode(self._content, texts)
        self._replies = {text: [*encoding.ids, self._end] for text, encoding in zip(texts, encodings, strict=True)}

        plain = [turns for turns in dict.fromkeys(map(_turns, prompts)) if not self._spells_special(turns)]
        rendered = [self._render(_messages(turns)) for turns in plain]
        encodings = _encode(self._template, rendered)
        self._prompts = {turns: encoding.ids for turns, encoding in zip(plain, encodings, strict=True)}

    def _spells_special(self, turns: _Turns) -> bool:
        return any(special in content for _, content in turns for special in self._special)

    def _encode_prompt(self, turns: _Turns) -> list[int]:
        messages = _messages(turns)
        return (
            self._piecewise(messages)
            if self._spells_special(turns)
            else self._ids(self._template, self._render(messages))
        )

    def _piecewise(self, messages: Sequence[Message]) -> list[int]:
        """Template and contents apart, where a content spells a special token."""
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        text = self._render([Message(role=m["role"], content=mark) for m, mark in zip(messages, marks, strict=True)])
        ids: list[int] = []
        for message, mark in zip(messages, marks, strict=True):
            before, _, text = text.partition(mark)
            ids += self._ids(self._template, before) + self._ids(self._content, message["content"])
        return ids + self._ids(self._template, text)

    def _render(self, messages: Sequence[Message]) -> str:
        return chat.render(self._tokenizer, messages)

    @staticmethod
    def _ids(backend: Any, text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)


def _encode(backend: Any, texts: list[str]) -> Any:
    """On all threads of the stage (RAYON_NUM_THREADS): the same ids, sooner. Elsewhere tokenizers are told not to."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "true"
    try:
        return backend.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


def _turns(messages: Sequence[Message]) -> _Turns:
    return tuple((message["role"], message["content"]) for message in messages)


def _messages(turns: _Turns) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]
