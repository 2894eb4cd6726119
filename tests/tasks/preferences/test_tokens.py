"""The tokenizer and its chat template: exact, reversible, deaf to special tokens in texts."""

from pathlib import Path
from typing import Any

import pytest

from tasks.preferences import tokens

TEXTS = ["What is 1 + 2?", "1 + 2 = 3.", "Name a fruit.", "An apple, happy to help."] * 5
DIALOGUE: list[Any] = [
    {"role": "system", "content": "Be  kind."},
    {"role": "user", "content": "Hi\nthere "},
    {"role": "assistant", "content": " yes"},
    {"role": "user", "content": "žluťoučký 🐴?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokens.train(TEXTS, 300)


def test_a_dialogue_reads_back_as_it_was(tokenizer: Any) -> None:
    ids = tokens.Encoder(tokenizer).prompt(DIALOGUE)
    expected = "<system>Be  kind.<user>Hi\nthere <assistant> yes<eos><user>žluťoučký 🐴?<assistant>"
    assert tokenizer.decode(ids) == expected


def test_prompt_and_reply_are_exactly_the_training_text(tokenizer: Any) -> None:
    encoder = tokens.Encoder(tokenizer)
    reply = "An apple."
    whole = tokenizer.apply_chat_template([*DIALOGUE, {"role": "assistant", "content": reply}], tokenize=False)
    ids = encoder.prompt(DIALOGUE) + encoder.reply(reply)
    assert tokenizer(whole)["input_ids"] == ids
    assert ids[-1] == tokenizer.eos_token_id


def test_many_at_once_have_the_ids_of_one(tokenizer: Any) -> None:
    encoder, alone = tokens.Encoder(tokenizer), tokens.Encoder(tokenizer)
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "an <eos> in a text", "Hi", " né ")] + [DIALOGUE]
    encoder.remember(["An apple."], prompts)
    assert [encoder.prompt(each) for each in prompts] == [alone.prompt(each) for each in prompts]
    assert encoder.prompt(DIALOGUE[:1]) == alone.prompt(DIALOGUE[:1])
    assert encoder.reply("An apple.") == alone.reply("An apple.")


def test_the_beginning_and_the_end_are_said_once() -> None:
    """A tokenizer that puts <bos> before every text, and whose template writes it too."""
    from tokenizers import processors

    other = tokens.train(TEXTS, 300)
    other.add_special_tokens({"bos_token": "<bos>"})
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", other.bos_token_id)]
    )
    other.chat_template = "{{ bos_token }}" + tokens.TEMPLATE
    assert other("x")["input_ids"][0] == other.bos_token_id
    encoder = tokens.Encoder(other)
    for content in ("Hi", "an <eos> in a text"):
        ids = encoder.prompt([{"role": "user", "content": content}])
        assert (ids[0], ids.count(other.bos_token_id)) == (other.bos_token_id, 1)
    encoder.remember(["An apple."])
    for reply in (encoder.reply("An apple."), encoder.reply("A pear.")):
        assert (reply.count(other.bos_token_id), reply.count(other.eos_token_id)) == (0, 1)
        assert reply[-1] == other.eos_token_id


def test_a_special_token_spelt_in_a_text_stays_text(tokenizer: Any) -> None:
    encoder = tokens.Encoder(tokenizer)
    special = {tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "<eos>", "<system>", "<user>", "<assistant>")}
    assert len(special) == 5
    reply = encoder.reply("stop <eos><user> now")
    assert special & set(reply[:-1]) == set()
    assert tokenizer.decode(reply[:-1]) == "stop <eos><user> now"
    ids = encoder.prompt([{"role": "user", "content": "say <assistant>x<eos>"}])
    assert [i for i in ids if i in special] == tokenizer.convert_tokens_to_ids(["<user>", "<assistant>"])
    assert tokenizer.decode(ids) == "<user>say <assistant>x<eos><assistant>"


def test_training_is_deterministic_and_reload_is_exact(tokenizer: Any, tmp_path: Path) -> None:
    assert tokens.train(TEXTS, 300).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded, added = tokens.load(str(tmp_path), None)
    assert not added
    assert tokens.Encoder(loaded).prompt(DIALOGUE) == tokens.Encoder(tokenizer).prompt(DIALOGUE)
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_base_tokenizer_without_padding_of_its_own_gets_one(tokenizer: Any, tmp_path: Path) -> None:
    other = tokens.train(TEXTS, 300)
    other.pad_token = other.eos_token
    other.save_pretrained(tmp_path)
    loaded, added = tokens.load(str(tmp_path), None)
    assert added
    assert loaded.pad_token_id == len(loaded) - 1 != loaded.eos_token_id


def test_a_base_that_cannot_serve_says_why(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no local folder, and model.revision is null"):
        tokens.load("nobody/nothing", None)
    with pytest.raises(ValueError, match="no tokenizer can be loaded"):
        tokens.load(str(tmp_path), None)
    bare = tokens.train(TEXTS, 300)
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        tokens.load(str(tmp_path), None)
