"""Numbers are looked for near digits alone: what is found is what looking everywhere finds."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.preferences.rules import identifiers

PIECES = """
+44 20 7946 0958|(212) 555-0187|call 030 1234567|DE89 3704 0044 0532 0130 00|MT84 MALT 0110 0001 2345 MTLC AST0 01S
KZ86 125K ZT50 0410 0100|GB29NWBK60161331926819|4111 1111 1111 1111|378282246310005|078-05-1120|529.982.247-25
12345678Z|X1234567L|AB 12 34 56 C|2 84 12 76 451 089 46|11010519491231002X|192.168.0.1|2001:db8::1|1.2.3|12:30|7|2026
""".replace("\n", "|").split("|")
piece = st.sampled_from(
    [*filter(None, PIECES), *" .,-/:", "word ", "٣٤٥٦٧٨ ", "é ", "and a few more words than that ", "x" * 60 + " "]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(piece, max_size=8).map("".join))
@example("".join(f"{piece} and then {piece}, " for piece in PIECES))
def test_near_digits_is_everywhere(text: str) -> None:
    found = list(identifiers.find(text))
    with pytest.MonkeyPatch.context() as patch:
        # All digits, too: what a pattern asks of a span spares time alone.
        patch.setattr(identifiers, "_num_digits", lambda *_: 99)
        patch.setattr(identifiers, "_spans", lambda text, shape: [(0, len(text))])
        assert list(identifiers.find(text)) == found
    # Digits of other scripts leave the fast way; what is found stays what it is, further on.
    moved = [identifiers.Entity(e.start + 3, e.end + 3, e.kind, e.value) for e in found]
    assert list(identifiers.find("é: " + text)) == moved


def test_every_piece_is_found() -> None:
    kinds = {found.kind for piece in PIECES for found in identifiers.find(f"Well, {piece} it is.")}
    assert kinds == {"phone", "iban", "card", "national_id", "ip"}
