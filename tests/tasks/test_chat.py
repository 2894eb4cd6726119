"""Prompts in the chat template, whatever day it is."""

import pytest

from tasks import chat
from tasks.preferences import tokens
from tasks.preferences.tokens import Encoder

ASKED = [{"role": "user", "content": "What day is it?"}]
# As instruct models have it: a name that may be given, the clock otherwise.
DATED = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- 'Today: ' + date_string + ', ' + strftime_now('%Y-%m-%d') + '\n' }}"
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
)


@pytest.fixture
def tokenizer():
    return tokens.train(["What day is it, my friend?"] * 3, 300)


def test_a_template_without_the_day_is_rendered_as_it_is(tokenizer):
    assert chat.render(tokenizer, ASKED) == tokenizer.apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True
    )


def test_a_template_that_stamps_the_day_stamps_the_same_one(tokenizer):
    tokenizer.chat_template = DATED
    assert chat.render(tokenizer, ASKED) == "Today: 01 Jan 2026, 2026-01-01\nWhat day is it?"
    encoder = Encoder(tokenizer)
    encoder.remember([], [ASKED])
    assert tokenizer.decode(encoder.prompt(ASKED)) == chat.render(tokenizer, ASKED)
    assert tokenizer.chat_template == DATED  # whoever talks to the model is told the day it is


def test_a_stopped_template_is_stopped_for_anybody(tokenizer):
    tokenizer.chat_template = chat.stopped(DATED)
    assert chat.stopped(tokenizer.chat_template) == tokenizer.chat_template
    plain = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert plain == chat.render(tokenizer, ASKED) == "Today: 01 Jan 2026, 2026-01-01\nWhat day is it?"
    assert chat.stopped("{{ messages }}") == "{{ messages }}"
    assert chat.stopped(None) is None
