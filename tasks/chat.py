"""A prompt in a model's chat template, the same on every day."""

from collections.abc import Sequence
from typing import Any

from tasks.records import Message

# Templates that stamp the day into a prompt are told this one: rows made on two days are to differ in what they say.
_DAY = {"%d": "01", "%-d": "1", "%b": "Jan", "%B": "January", "%m": "01", "%y": "26", "%Y": "2026", "%A": "Thursday"}
_REPLACED = "".join(f' | replace("{form}", "{value}")' for form, value in _DAY.items())
_NOW = "strftime_now"
_STOPPED = "{%- macro " + _NOW + "(format) -%}{{ format" + _REPLACED + " }}{%- endmacro -%}"


def stopped(template: Any) -> Any:
    """A template whose clock stands still; one that asks for no day, or a stopped one, as it is."""
    asks = isinstance(template, str) and _NOW in template and not template.startswith(_STOPPED)
    return _STOPPED + template if asks else template


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text of a prompt, up to where the reply begins."""
    text = tokenizer.apply_chat_template(
        list(messages), chat_template=stopped(tokenizer.chat_template), tokenize=False, add_generation_prompt=True
    )
    return str(text)
