"""schema: the reply is JSON (whole, or in its last ``` block) that a JSON Schema accepts (draft 2020-12).

Nothing is fetched: a `$ref` leads into the schema itself. Patterns are refused: Python's regular expressions can be
made to run for ever by what they read. A reply with a key twice, NaN or a number beyond 64 bits is no JSON here.
"""

import json
import math
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import Field
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tasks.rlhf.verification import Resources, Verify, fenced
from tasks.rlhf.verification import Spec as Base

MAX_DEPTH = 32  # of nesting
PROBES: tuple[Any, ...] = (None, 0, "", [], {}, [0], {"": 0})
REFUSED = {"pattern", "patternProperties"}
_NAMES = {"properties", "$defs", "definitions", "dependentSchemas", "dependentRequired"}  # keys below are names
_DATA = {"const", "enum", "default", "examples"}


class Spec(Base):
    json_schema: dict[str, Any] = Field(alias="schema")


def verifier(spec: Spec, resources: Resources) -> Verify:
    """1 for a reply that the schema accepts, else 0."""
    keywords = _keywords(spec.json_schema)
    if found := sorted({key for key, _ in keywords} & REFUSED):
        raise ValueError(f"schema: {found[0]}: a reply could make its expression run for ever; use enum or lengths")
    root = DRAFT202012.create_resource(spec.json_schema)
    try:
        Draft202012Validator.check_schema(spec.json_schema)
        for key, value in keywords:
            if key in ("$ref", "$dynamicRef"):
                Registry().resolver_with_root(root).lookup(value)
        accepts = Draft202012Validator(spec.json_schema, registry=Registry()).is_valid
        for probe in PROBES:
            accepts(probe)
    except SchemaError as error:
        raise ValueError(f"schema: {error.message}") from None
    except (Unresolvable, RecursionError) as error:
        raise ValueError(f"schema: a $ref leads nowhere or back to itself ({type(error).__name__})") from None

    def verify(reply: str) -> float:
        try:
            document = parse(fenced(reply))
        except (ValueError, RecursionError):
            return 0.0
        return float(accepts(document))

    return verify


def parse(text: str) -> Any:
    """JSON, strictly; ValueError or RecursionError for what is none."""
    document = json.loads(
        text, object_pairs_hook=_no_key_twice, parse_constant=_refuse, parse_int=_integer, parse_float=_float
    )
    if _depth(document) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return document


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _integer(text: str) -> int:
    return int(text) if len(text) <= 19 else _refuse(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _depth(document: Any) -> int:
    """Levels of nesting, found level by level."""
    level, depth = [document], 0
    while level := [
        child
        for item in level
        if isinstance(item, dict | list)
        for child in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
    return depth


def _keywords(schema: Any) -> list[tuple[str, Any]]:
    """Every keyword of a schema with its value, at any depth: no names of properties, nothing inside data."""
    if isinstance(schema, list):
        return [pair for item in schema for pair in _keywords(item)]
    if not isinstance(schema, dict):
        return []
    found = list(schema.items())
    for key, value in schema.items():
        if key in _NAMES and isinstance(value, dict):
            found += _keywords(list(value.values()))
        elif key not in _DATA:
            found += _keywords(value)
    return found
