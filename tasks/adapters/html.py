"""jinja2, kept in one place: a template and values as a page, with every value escaped and made visible."""

import unicodedata
from pathlib import Path
from typing import Any


def render(template: Path, **values: Any) -> str:
    """The page as HTML. Every value is escaped and made visible on its way out: texts are hostile."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def visible(value: Any) -> Any:
    """Text with its control, direction and other invisible characters written out, as \u27e8U+202E\u27e9."""
    if type(value) is not str:  # Markup is a str too: it is the template's own, already through here
        return value
    return "".join(c if c in "\n\t" or _shows(c) else f"\u27e8U+{ord(c):04X}\u27e9" for c in value)


def _shows(character: str) -> bool:
    # Cc control, Cf format (bidi, zero width, tags), Cs surrogate, Co private use, Zl and Zp line breaks in disguise
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
