"""Verifiers: found by name, strict about what they are asked, and unmoved by what a reply may hold."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import world
from tasks.rlhf import verification
from tasks.rlhf.verification import Resources, contains, fenced, load, words

TABLES = {
    "atlas": [{"subject": "Arvenna", "relation": "capital", "value": "Solm"}],
    "papers": [{"id": "p1", "text": "The sun is a star of the main sequence."}],
}
# kind: a verifier of it, a right reply
SAMPLES = {
    "citation": ({"table": "papers", "answer": "a star"}, "It is a star [p1]."),
    "exact": ({"answer": "Solm"}, "It is Solm."),
    "fact": ({"table": "atlas", "subject": "Arvenna", "relation": "capital"}, "Solm it is."),
    "numeric": ({"answer": "5"}, "2 + 3 = 5."),
    "schema": ({"schema": {"type": "object", "required": ["a"]}}, '{"a": 1}'),
    "tests": ({"tests": [{"call": "f(1)", "returns": 2}]}, "def f(x): return x + 1"),
}


def resources():
    return Resources(TABLES, run_code=lambda program: '["2"]' if "x + 1" in program else None)


def check(kind, **keys):
    return load(json.dumps({"kind": kind, **keys}), resources())


def test_every_file_is_a_kind_with_a_sample():
    assert verification.files().keys() == SAMPLES.keys()


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_right_reply_scores_1_and_others_0(kind):
    verify = check(kind, **SAMPLES[kind][0])
    assert verify(SAMPLES[kind][1]) == 1
    for wrong in ("", " ", "nonsense", "[", "```", "0", "x" * (verification.MAX_REPLY + 1)):
        assert verify(wrong) == 0


HOSTILE = [
    "1e9999999", "-" * 5000, "9" * 20_000, "1/0", "½" * 999, "1," * 5_000, "1/" * 5_000, "[" * 20_000,
    "[p1]" * 5_000, '{"a":' * 5_000, '{"a": 1e999}', '{"a": NaN}', '{"a": 1, "a": 2}', "\x00\ud800", "``````",
    "```\n" * 999, '"' * 999, "“”[p1]", "\N{ARABIC-INDIC DIGIT FIVE}", "e" * 999 + "1e5e5e5", "." * 999, "]" * 999,
]  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLES)
def test_hostile_replies_are_wrong_and_nothing_else(kind):
    verify = check(kind, **SAMPLES[kind][0])
    for reply in HOSTILE:
        assert verify(reply) == 0, reply[:20]


CHECKS = [check(kind, **keys) for kind, (keys, _) in SAMPLES.items()]


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.sampled_from(list('0123456789.,-+/%eE []{}"`\n“”½a:Solm')), max_size=60))
def test_any_reply_gets_a_score(text):
    for verify in CHECKS:
        assert 0 <= verify(text) <= 1


def test_a_prompt_without_a_verifier_of_a_known_kind_cannot_be_scored():
    assert load(None, resources()) is None
    for kind in ("list", "steps", "decline", "__init__", "../secret", "nummeric"):
        assert load(json.dumps({"kind": kind, "anything": 1}), resources()) is None


def test_the_world_is_scored_as_it_scores_itself():
    """Good replies of the simulated world get what its own truth says, but for what follows the answer."""
    import random

    rng, quality = random.Random(0), world.Quality(right=0.5, polite=0.3, rude=0.2, filler=0, sloppy=0.2, unfinished=0)
    kinds = set()
    for item in world.items(0)[::5]:
        verify = load(json.dumps(item.verifier), Resources())
        if verify is None:
            assert item.verifier["kind"] in ("list", "steps", "decline")
            continue
        kinds.add(item.verifier["kind"])
        reply = world.write_reply(item, quality, rng)
        assert verify(reply) == world.correct(item.verifier, reply), reply
    assert kinds == {"numeric", "exact"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "must be a JSON object, not list"),
        ("{}", r"kind = None: must be a name, such as one of citation, exact"),
        ('{"kind": "exact"}', "answer: Field required"),
        ('{"kind": "exact", "answer": "?!"}', r"answer = '\?!': holds nothing but punctuation"),
        ('{"kind": "exact", "answer": "a", "match": "starts"}', "match = 'starts': Input should be 'ends' or 'whole'"),
        ('{"kind": "numeric", "answer": "5", "tolerence": 1}', "tolerence: unknown key"),
        ('{"kind": "numeric", "answer": "five"}', "answer = 'five': must hold exactly one number"),
        ('{"kind": "numeric", "answer": "1 or 2"}', "answer = '1 or 2': must hold exactly one number"),
        ('{"kind": "numeric", "answer": "1e999"}', "answer = '1e999': must hold exactly one number"),
        ('{"kind": "numeric", "answer": true}', "answer.* = True"),
        ('{"kind": "numeric", "answer": "5", "tolerance": -1}', "tolerance = -1: Input should be greater"),
        ('{"kind": "fact", "table": "x", "subject": "a", "relation": "b"}', "table 'x' is not in .*: atlas, papers"),
        ('{"kind": "citation", "table": "atlas"}', "row 1 of the table: must have an id and a text"),
        ('{"kind": "fact", "table": "papers", "subject": "a", "relation": "b"}', "row 1 of the table: subject = None"),
        ('{"kind": "schema", "schema": {"type": "objekt"}}', "schema: 'objekt' is not valid"),
        ('{"kind": "schema", "schema": {"items": {"pattern": "(a+)+$"}}}', "schema: pattern: a reply could make"),
        ('{"kind": "schema", "schema": {"items": {"$ref": "#/nowhere"}}}', "schema: a .ref leads nowhere"),
        ('{"kind": "schema", "schema": {"$ref": "http://localhost/x.json"}}', "schema: a .ref leads nowhere"),
        ('{"kind": "schema", "schema": {"$ref": "#"}}', "schema: a .ref leads nowhere or back to itself"),
        ('{"kind": "tests", "tests": []}', r"tests = \[\]: List should have at least 1 item"),
        ('{"kind": "tests", "tests": [{"call": "f(", "returns": 1}]}', r"call = 'f\(': no expression of Python"),
    ],
)  # fmt: skip
def test_a_malformed_verifier_is_explained_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(text, resources())
    assert "\n" not in str(caught.value)


def test_tests_need_a_sandbox():
    with pytest.raises(ValueError, match="needs the sandbox"):
        load('{"kind": "tests", "tests": [{"call": "1", "returns": 1}]}', Resources())


def test_words_by_hand():
    assert words("  The **Fox**, (it's) -5 C++!") == ["the", "fox", "it's", "-5", "c++"]
    assert words("STRASSE straße ﬁn") == ["strasse", "strasse", "fin"]
    assert words("... !") == []
    assert contains(words("a b c"), ["b", "c"])
    assert not contains(words("ab c"), ["b", "c"])


def test_fenced_by_hand():
    assert fenced("no block") == "no block"
    assert fenced("a ```python\nx = 1\n``` b") == "x = 1\n"
    assert fenced("```\n1\n``` and ```json\n2\n```") == "2\n"
    assert fenced("```\n1\n``` and ```python\nopen") == "1\n"
    assert fenced("```x = 1```") == "x = 1"
