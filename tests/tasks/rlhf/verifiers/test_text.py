"""exact, fact, citation, schema: what is right and how it could be cheated, by hand."""

import pytest

from tasks.rlhf.verification import Resources
from tasks.rlhf.verifiers import citation, exact, fact, schema

ATLAS = [
    {"subject": subject, "relation": "capital", "value": value}
    for subject, value in (("Arvenna", "York"), ("Belmark", "New York"), ("Corvia", "Solm"), ("Corvia", "Bad Solm"))
]
PAPERS = [
    {"id": "p1", "text": "The sun is a star of the main sequence."},
    {"id": "p2", "text": "A planet is not a star; it goes around one."},
]
TABLES = Resources({"atlas": ATLAS, "papers": PAPERS})


@pytest.mark.parametrize(
    ("keys", "reply", "score"),
    [
        ({"answer": "New York"}, "It is **new york**!", 1),
        ({"answer": "New York"}, "New York. Or Solm.", 0),
        ({"answer": "York"}, "Brava, Solm, York", 1),  # ends with it; `whole` or `fact` is stricter
        ({"answer": "York", "match": "whole"}, "Brava, Solm, York", 0),
        ({"answer": ["4", "four"], "match": "whole"}, "Four.", 1),
        ({"answer": "ork"}, "York", 0),
    ],
)
def test_exact(keys, reply, score):
    assert exact.verifier(exact.Spec(**keys), TABLES)(reply) == score


@pytest.mark.parametrize(
    ("subject", "reply", "score"),
    [
        ("Arvenna", "The capital of Arvenna is York.", 1),
        ("arvenna", "New York", 0),
        ("Belmark", "New York", 1),
        ("Arvenna", "York, New York, Solm", 0),  # naming everything
        ("Corvia", "Solm, once Bad Solm.", 1),
        ("Corvia", "I do not know.", 0),
    ],
)
def test_fact(subject, reply, score):
    assert fact.verifier(fact.Spec(table="atlas", subject=subject, relation="capital"), TABLES)(reply) == score


def test_what_the_table_does_not_say_cannot_be_scored():
    assert fact.verifier(fact.Spec(table="atlas", subject="Dunmere", relation="capital"), TABLES) is None
    assert fact.verifier(fact.Spec(table="atlas", subject="Arvenna", relation="flag"), TABLES) is None


@pytest.mark.parametrize(
    ("answer", "reply", "score"),
    [
        ("a star", "The sun is a star [p1].", 1),
        ("a star", "It is [a star]", 0),
        ("a star", "It is hot [p1].", 0),  # cited, not said
        ("a star", "It is a star [p3].", 0),  # no such passage
        ("a star", "A star [p1], [p3], [p1][p3].", 0.5),
        ("main sequence", "Main sequence [p1] [p2].", 0.5),  # p2 does not say so
        ("a star", "[p1] It is a star.", 1),
        (None, 'As they say, "the sun is a star" [p1].', 1),
        (None, "As they say, “goes around one” [p2]", 0),  # three words
        (None, "“it goes around one”, [p2] and the sun is a star [p1]", 0.5),
        (None, '"the sun is a planet" [p1]', 0),
        (None, '"the sun is a star" [p2][p1]', 0.5),
        (None, '"the sun is a star"', 0),
    ],
)
def test_citation(answer, reply, score):
    assert citation.verifier(citation.Spec(table="papers", answer=answer), TABLES)(reply) == score


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "pattern": {"$ref": "#/$defs/age"}},
    "$defs": {"age": {"type": "integer", "multipleOf": 1.5}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"name": "x"}', 1),
        ('Here:\n```json\n{"name": "x", "pattern": 3}\n```', 1),
        ('{"name": "x", "pattern": 4}', 0),
        ('{"name": "x", "pattern": ' + "9" * 5000 + "}", 0),
        ('{"name": 1}', 0),
        ('{"name": "x"} {"name": "y"}', 0),
        ('{"name": 1, "name": "x"}', 0),
        ("[" * 40 + "]" * 40, 0),
    ],
)
def test_schema(reply, score):
    assert schema.verifier(schema.Spec(schema=PERSON), TABLES)(reply) == score


def test_a_deep_reply_to_a_schema_of_itself_ends():
    verify = schema.verifier(schema.Spec(schema={"items": {"$ref": "#"}}), TABLES)
    assert verify("[" * 30 + "]" * 30) == 1
    assert verify("[" * 40 + "]" * 40) == 0
