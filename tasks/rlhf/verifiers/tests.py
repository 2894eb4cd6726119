"""tests: code of the reply (its last ``` block, or all of it) gives the right values for calls it is tested with.

The code runs in the sandbox and never sees what is expected: values come out as JSON and are compared here. Code that
leaves early, or prints that it passed, fails.
"""

import ast
import json
import math
from typing import Annotated, Any

from pydantic import Field

from tasks.rlhf.verification import Resources, Verify, fenced
from tasks.rlhf.verification import Spec as Base

PROGRAM = """
import json
code, calls = json.loads({payload!r})
space, values = {{"__name__": "reply"}}, []
try:
    exec(compile(code, "reply.py", "exec"), space)
except BaseException:
    calls = []
for call in calls:
    try:
        values.append(json.dumps(eval(call, space)))
    except BaseException:
        values.append(None)
print("\\n" + json.dumps(values))
"""


class Case(Base):
    call: str  # an expression, such as add(2, 3)
    returns: Any  # its value as JSON: a tuple is a list


class Spec(Base):
    tests: Annotated[list[Case], Field(min_length=1)]
    partial: bool = False  # the share of the tests that pass, instead of 1 where all do


def verifier(spec: Spec, resources: Resources) -> Verify:
    """1 where all tests pass, else 0; with `partial` their share."""
    if resources.run_code is None:
        raise ValueError("kind = 'tests': needs the sandbox, and there is none here")
    run_code, calls = resources.run_code, [case.call for case in spec.tests]
    for call in calls:
        try:
            ast.parse(call, mode="eval")
        except SyntaxError as error:
            raise ValueError(f"tests: call = {call!r}: no expression of Python: {error.msg}") from None

    def verify(reply: str) -> float:
        printed = run_code(PROGRAM.format(payload=json.dumps([fenced(reply), calls])))
        values = _values(printed)
        passed = [
            value is not None and _value_is(value, case.returns)
            for value, case in zip(values, spec.tests, strict=False)
        ]
        share = sum(passed) / len(spec.tests)
        return share if spec.partial else float(share == 1)

    return verify


def _values(printed: str | None) -> list[Any]:
    """What the program reported last; nothing where that is not a list."""
    try:
        values = json.loads((printed or "").rstrip("\n").rpartition("\n")[2])
    except (ValueError, RecursionError):
        return []
    return values if isinstance(values, list) else []


def _value_is(text: Any, expected: Any) -> bool:
    try:
        return isinstance(text, str) and _same(json.loads(text), expected)
    except (ValueError, RecursionError, OverflowError):
        return False


def _same(value: Any, expected: Any) -> bool:
    """Equal as JSON, numbers to nine digits; true is not 1."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        return value == expected or (isinstance(value, float) and math.isclose(value, expected, rel_tol=1e-9))
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_same(value[key], expected[key]) for key in value)
    return type(value) is type(expected) and bool(value == expected)
