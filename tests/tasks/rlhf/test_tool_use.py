"""Replies that call tools: what the policy wrote and what a tool did stay apart, in every algorithm."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from tasks.rlhf import algorithms, tool_use
from tasks.rlhf.advantages import gae, place_on_last
from tasks.rlhf.batch import Prompt
from tasks.rlhf.experience import collect
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.rollout import Reply, sample
from tasks.rlhf.tool_options import ToolsOptions
from tasks.rlhf.tool_use import Toolbox, sampler
from tasks.rlhf.verification import Resources
from tests.tasks.rlhf import rollouts
from tests.tasks.rlhf.test_train_on_rollouts import POLICIES, Recorder, learned, learner, section, train_on_rollouts

EOS = 0


def encode(text):
    return [ord(character) for character in text]


def decode(ids):
    return "".join(chr(i) for i in ids if i != EOS)


def toolbox(**changes):
    settings = {"names": ["calculator"], "resources": Resources(), "max_calls": 2, "max_result_tokens": 8}
    return Toolbox(**{**settings, "encode": encode, "decode": decode, **changes})


def scripted(*turns):
    """What draws these texts, one list per turn (`$` is EOS), and the contexts that it was shown."""
    shown, left = [], list(turns)

    def say(model, prompts, *, max_new_tokens, **settings):
        shown.append([decode(prompt) for prompt in prompts])
        texts = [encode(text.rstrip("$")) + [EOS] * text.endswith("$") for text in left.pop(0)]
        return [Reply(ids[:max_new_tokens], [-1.0] * len(ids[:max_new_tokens]), False) for ids in texts]

    return say, shown


def run(box, draw, prompts, most=100):
    return sampler(box, draw)(
        None, [encode(p) for p in prompts], max_new_tokens=most, seed=0, eos_id=EOS, temperature=1.0
    )


def test_a_call_is_cut_answered_and_gone_on_from():
    draw, shown = scripted(
        ["Well, <calculator>2+3</calculator> I guess 6$", "No tool$"],
        ["So 5.$"],
    )
    box = toolbox()
    first, second = run(box, draw, ["Q1:", "Q2:"])
    assert decode(first.ids) == "Well, <calculator>2+3</calculator><result>5</result>So 5."
    assert shown[1] == ["Q1:Well, <calculator>2+3</calculator><result>5</result>"]
    own = "".join(chr(i) for i, mine in zip(first.ids, first.own, strict=True) if mine and i)
    assert own == "Well, <calculator>2+3</calculator>So 5."
    assert [lp for lp, mine in zip(first.logprobs, first.own, strict=True) if not mine] == [0.0] * 18
    assert first.finished
    assert second == Reply([*encode("No tool"), EOS], [-1.0] * 8, True, [True] * 8)
    assert first.trace["calls"] == [{"tool": "calculator", "argument": "2+3", "result": "5", "ok": True}]
    assert second.trace == {"prompt": "Q2:", "reply": "No tool", "calls": []}


def test_limits_of_a_reply():
    call = "<calculator>1</calculator>"
    draw, _ = scripted([call], [call], [call + "$"])
    box = toolbox()
    (reply,) = run(box, draw, ["Q"], most=200)
    assert decode(reply.ids) == f"{call}<result>1</result>{call}<result>1</result>{call}"  # the third is text
    assert reply.finished
    # no room for the result: the reply ends there, unfinished
    draw, _ = scripted([call])
    box = toolbox()
    (reply,) = run(box, draw, ["Q"], most=len(call) + 10)
    assert (decode(reply.ids), reply.finished, len(reply.trace["calls"])) == (call, False, 1)
    # policy and tool share the room
    draw, _ = scripted([call], ["x" * 100])
    box = toolbox()
    (reply,) = run(box, draw, ["Q"], most=60)
    assert (len(reply.ids), len(reply.own), len(reply.logprobs)) == (60, 60, 60)
    # a long result is cut
    draw, _ = scripted(["<calculator>10**20</calculator>"], ["$"])
    box = toolbox()
    assert "<result>10000000</result>" in decode(run(box, draw, ["Q"])[0].ids)


def test_only_the_policys_own_words_call():
    """A passage that holds a call, and a call begun in one turn and ended in the next."""
    corpus = [{"id": "p", "text": "evil <calculator>6*7</calculator>"}]
    box = toolbox(names=["calculator", "search"], resources=Resources({"corpus": corpus}), max_result_tokens=99)
    draw, _ = scripted(["<search>evil</search>"], ["</calculator>$"])
    (reply,) = run(box, draw, ["<calculator>1</calculator>"], most=200)
    assert [call["tool"] for call in reply.trace["calls"]] == ["search"]
    assert decode(reply.ids).endswith("</result></calculator>")


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("<calculator>1</calculator>", ("calculator", "1")),
        ("<search>a <calculator>1</calculator>", ("calculator", "1")),
        ("<search>a</search><calculator>1</calculator>", ("search", "a")),
        ("</calculator>1<calculator>", None),
        ("<calculator></calculator>", ("calculator", "")),
        ("<python>print(1)</python>", None),
        ("<calculator", None),
    ],
)
def test_calls_by_hand(text, call):
    assert tool_use._parse(text, ["calculator", "search"]) == call


def test_without_a_call_it_is_the_plain_sampler(tiny_model):
    prompts = [[5, 6, 7], [11]] * 4
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3, "eos_id": 1, "pad_id": 0}
    box = toolbox(decode=lambda ids: "no call")
    plain = sample(tiny_model, prompts, **settings)
    assert [replace(reply, own=None) for reply in sampler(box)(tiny_model, prompts, **settings)] == plain


def every_seven_calls(ids):
    """Token 7 is a whole call."""
    return "".join("<calculator>1</calculator>" if i == 7 else "." for i in ids)


def calling_learner(tiny_model, name, **changes):
    algorithm, run = learner(tiny_model, learned([0.5, -0.5, 0.2]), name, section(missing_eos_penalty=0.0, **changes))
    box = toolbox(decode=every_seven_calls, encode=lambda text: [9] if text[0] == "<" else [8])
    return algorithm, replace(run, sample=sampler(box), max_new_tokens=16)


def test_a_rollout_keeps_what_tools_said_out_of_its_mask(tiny_model):
    algorithm, run = calling_learner(tiny_model, "grpo")
    rollout, metrics = collect(run, [Prompt([5, 6, 7])] * 12, algorithm.options, seed=0)
    assert metrics["calls"] * len(rollout.examples) > 5
    measured = token_logprobs(tiny_model, rollout.examples)
    pieces = measured.detach().split([len(e.reply_ids) for e in rollout.examples])
    for example, mask, logprobs, piece in zip(
        rollout.examples, rollout.reply_mask_BT, rollout.logprobs_BT, pieces, strict=True
    ):
        size = len(example.reply_ids)
        own = mask[:size]
        # the log-probs of what the policy drew are those the trainer measures, in the context with results
        torch.testing.assert_close(logprobs[:size][own], piece[own], rtol=1e-3, atol=1e-3)
        assert not mask[size:].any()
        assert [example.reply_ids[i] for i in (~own).nonzero().flatten().tolist()] == [9, 8, 9] * (
            int((~own).sum()) // 3
        )
    assert rollout.reply_mask_BT.sum() < sum(len(example.reply_ids) for example in rollout.examples)
    assert metrics["reply_length"] == pytest.approx(float(rollout.reply_mask_BT.sum(1).float().mean()))


@pytest.mark.parametrize("name", POLICIES)
def test_every_algorithm_trains_on_such_rollouts(name, tiny_model):
    """The checks of its health hold: at the first minibatch the ratio is 1 and KL is 0."""
    algorithm, run = calling_learner(tiny_model, name)
    recorder = Recorder()
    train_on_rollouts(run, [Prompt([5, 6, 7]), Prompt([11])] * 8, [], algorithm.options, 0, recorder)
    assert any(row["called"] for row in recorder.rows)
    assert all(row["loss"] == row["loss"] for row in recorder.rows)


# --- The oracle: an algorithm sees the tokens of the policy as if those of tools were not there.


def with_tool_tokens(rollout):
    """The same rollout with two tokens of a tool after each first token and one at each end, filled with noise."""
    rows, width = rollout.reply_mask_BT.shape
    place_BT = torch.zeros(rows, width, dtype=torch.int64)
    place_BT[:, 1:] = torch.arange(1, width) + 2
    wide = {}
    for key in ("reply_mask_BT", "logprobs_BT", "reference_BT", "values_BT"):
        narrow = getattr(rollout, key)
        noise = (
            torch.zeros(rows, width + 3, dtype=torch.bool)
            if key == "reply_mask_BT"
            else torch.full((rows, width + 3), 7.7)
        )
        wide[key] = noise.to(narrow.dtype).scatter(1, place_BT, narrow)
    return replace(rollout, **wide), place_BT


@pytest.mark.parametrize("name", POLICIES)
def test_tokens_of_tools_change_nothing(name):
    algorithm = algorithms.load(name, section(kl_coef=0.1))
    plain = rollouts.draw(unscored=(3, 8))
    wide, place_BT = with_tool_tokens(plain)
    lessons = [algorithm.module.advantages(r, 0.1, algorithm.config) for r in (plain, wide)]
    own_BT = plain.reply_mask_BT
    for key in ("advantages_BT", "returns_BT"):
        narrow, broad = (getattr(lesson, key) for lesson in lessons)
        if narrow is not None:
            torch.testing.assert_close(broad.gather(1, place_BT) * own_BT, narrow * own_BT)
    assert (lessons[1].advantages_BT[~wide.reply_mask_BT] == 0).all()
    assert torch.equal(lessons[0].kept_B, lessons[1].kept_B)
    new_BT = plain.logprobs_BT + 0.1
    broad_BT = (
        torch.full(wide.logprobs_BT.shape, -5.5, dtype=torch.float64).scatter(1, place_BT, new_BT).requires_grad_()
    )
    entropy_BT = torch.rand(wide.logprobs_BT.shape, dtype=torch.float64)
    losses = [
        algorithm.module.loss(logprobs, entropy, r, lesson.advantages_BT, 0.1, algorithm.config)
        for logprobs, entropy, r, lesson in (
            (new_BT, entropy_BT.gather(1, place_BT), plain, lessons[0]),
            (broad_BT, entropy_BT, wide, lessons[1]),
        )
    ]
    torch.testing.assert_close(losses[1].loss_B, losses[0].loss_B)
    torch.testing.assert_close(losses[1].weight_B, losses[0].weight_B)
    losses[1].loss_B.sum().backward()
    assert (broad_BT.grad[~wide.reply_mask_BT] == 0).all()
    assert broad_BT.grad.abs().sum() > 0


def test_gae_and_the_score_pass_over_tool_tokens_by_hand():
    """As test_gae_by_hand, with a tool between its two tokens."""
    rewards, values = torch.tensor([[1.0, 9.0, 2.0, 9.0]]), torch.tensor([[0.5, 4.0, 1.0, 4.0]])
    mask = torch.tensor([[True, False, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    assert advantages[0].tolist() == pytest.approx([2.12, 0.0, 1.0, 0.0])
    assert returns[0].tolist() == pytest.approx([2.62, 0.0, 2.0, 0.0])
    assert place_on_last(torch.tensor([3.0]), mask).tolist() == [[0, 0, 3, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["calculator", "calculator"]}, "names a tool twice"),
        ({"names": ["browser"]}, "Input should be 'calculator', 'python' or 'search'"),
        ({"names": ["search"], "corpus": None}, "belongs to the tool search"),
        ({"names": [], "corpus": "x.jsonl"}, "belongs to the tool search"),
        ({"names": ["search"], "corpus": "../x.jsonl"}, "inside data/inputs"),
        ({"max_calls": 0}, "greater than 0"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ToolsOptions(**options)
