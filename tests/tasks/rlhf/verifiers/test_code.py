"""tests: real programs in the sandbox, and the ways to pass without being right."""

import pytest

from tasks.adapters import sandbox
from tasks.rlhf.verification import Resources
from tasks.rlhf.verifiers.tests import Case, Spec, verifier

CASES = [Case(call="add(2, 3)", returns=5), Case(call="add('a', 'b')", returns="ab")]


@pytest.fixture(scope="module")
def resources():
    # The programs below do no harm: without namespaces they may run all the same.
    return Resources(run_code=sandbox.runner(seconds=60, memory_mb=256, allow_unsandboxed=True))


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("def add(a, b): return a + b", 1),
        ("Like this:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1),
        ("def add(a, b):\n    print('adding', '[\"5\", \"5\"]')\n    return a + b", 1),
        ("def add(a, b): return 5", 0.5),
        ("def add(a, b): return a - b", 0),
        ("def add(a, b): return float(a + b)", 0.5),  # 5.0 is 5, and 'ab' is no number
        ("not python", 0),
        # leaving before the tests, as if all were well
        ("import os; os._exit(0)", 0),
        ("import sys; sys.exit(0)", 0),
        ("def add(a, b): raise SystemExit(0)", 0),
        # printing a report of its own
        ("import os; print('[true, true]', flush=True); os._exit(0)", 0),
        # a value that is equal to everything
        ("class T(int):\n    __eq__ = lambda *_: True\nadd = lambda *_: T(7)", 0),
        # meddling with what reports
        ("import json\njson.dumps = lambda value: 'true'\nadd = lambda *_: 1", 0),
        ("def add(a, b):\n    while True: pass", None),
    ],
)
def test_shares_by_hand(reply, share, resources):
    if share is None:  # time is up
        resources = Resources(run_code=sandbox.runner(seconds=2, memory_mb=256, allow_unsandboxed=True))
        share = 0
    assert verifier(Spec(tests=CASES, partial=True), resources)(reply) == share
    assert verifier(Spec(tests=CASES), resources)(reply) == float(share == 1)


@pytest.mark.parametrize(
    ("value", "returns", "right"),
    [
        ("(1, [2.0, {'a': None}])", [1, [2, {"a": None}]], True),
        ("0.1 + 0.2", 0.3, True),
        ("0.3001", 0.3, False),
        ("1", True, False),
        ("True", 1, False),
        ("float('nan')", 0, False),
        ("10 ** 5000", 1, False),
        ("[1, 2]", [1, 2, 3], False),
        ("{1, 2}", [1, 2], False),  # no JSON
    ],
)
def test_values_by_hand(value, returns, right, resources):
    verify = verifier(Spec(tests=[Case(call="f()", returns=returns)]), resources)
    assert verify(f"f = lambda: {value}") == float(right)
