"""Generation by a server: its replies train like the sampler's, its weights are the policy's, and it fails clearly."""

import contextlib
import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.adapters import generation, vllm
from tasks.adapters.generation import fingerprint
from tasks.rlhf import models, rollout
from tasks.rlhf.generation_options import GenerationOptions
from tasks.rlhf.logprobs import reply_logprobs
from tasks.rlhf.options import LoraOptions
from tasks.rlhf.ranks import Ranks
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.adapters.vllm_server import RAW, Fault, Vllm, serving
from tests.tasks.rlhf import tiny
from tests.tasks.rlhf.test_train_on_rollouts import PROMPTS, Recorder, learner, likes_sevens, section, weights

SETTINGS = {"max_new_tokens": 8, "temperature": 1.0, "eos_id": 1, "pad_id": 0}
ROWS = [[5, 6, 7], [11], [21, 22, 23]] * 2
LORA = LoraOptions(rank=2, alpha=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 64 tokens and a tokenizer for it."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("sft")
    model = tiny.language_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    words = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXY"]
    split = Tokenizer(kinds.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(folder, tmp_path):
    """engine(server, **options): a sampler that asks it, which waits no second between two attempts."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(vllm, "WAIT", 0.001)

        def start(server, **options):
            url = stack.enter_context(serving(server))
            options = GenerationOptions(engine="server", url=url, timeout=20, **options)
            tokenizer = models.load_tokenizer(folder)
            own = tmp_path / f"weights{url.rsplit(':')[-1]}"  # two runs never share the default folder
            return stack.enter_context(generation.engine(options, tokenizer, own))

        yield start


def policy(folder, lora=None, seed=0):
    torch.manual_seed(seed)
    return models.add_lora(models.load_policy(folder), lora)


def moved(model):
    """The weights after some update."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("lora", [None, LORA])
def test_replies_are_the_policys_and_so_are_their_logprobs(folder, engine, lora):
    model, server = moved(policy(folder, lora)), Vllm(folder)
    draw = engine(server)
    replies = draw(model, ROWS, seed=3, **SETTINGS | {"temperature": 0.7})
    own = reply_logprobs(model, ROWS, [reply.ids for reply in replies], 0.7)
    for reply, logprobs in zip(replies, own, strict=True):
        assert reply.logprobs == logprobs.tolist()
        assert np.allclose(reply.drawn_logprobs, logprobs, atol=1e-4)
        assert reply.finished == (reply.ids[-1] == 1)
        assert 1 <= len(reply.ids) <= 8
    assert replies == draw(model, ROWS, seed=3, **SETTINGS | {"temperature": 0.7})
    assert replies != draw(model, ROWS, seed=4, **SETTINGS | {"temperature": 0.7})
    assert [reply.ids for reply in replies[:3]] != [reply.ids for reply in replies[3:]]  # the same prompts


def test_a_reply_has_the_probability_that_the_policy_gives_it(folder, engine):
    """Of 300 first tokens, as many of each as the policy says, within five standard deviations."""
    model, server = moved(policy(folder)), Vllm(folder)
    replies = engine(server)(model, [[5, 6]] * 300, seed=0, **SETTINGS | {"max_new_tokens": 1})
    with torch.no_grad():
        share_V = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1).numpy()
    count_V = np.bincount([reply.ids[0] for reply in replies], minlength=64)
    assert (np.abs(count_V - 300 * share_V) < 5 * np.sqrt(300 * share_V * (1 - share_V)) + 1e-9 + 1).all()


def trained(folder, draw, lora=None, name="ppo", **changes):
    changes = {"num_steps": 3, "prompts_per_step": 4, "replies_per_prompt": 2, "held_out_every": 2, **changes}
    algorithm, run = learner(policy(folder, lora), likes_sevens, name, section(**changes))
    run = replace(run, sample=draw)
    recorder = Recorder()
    train_on_rollouts(run, PROMPTS, PROMPTS[:3], algorithm.options, 0, recorder)
    return recorder.rows, run.policy


@pytest.mark.parametrize("lora", [None, LORA])
def test_training_on_a_servers_replies(folder, engine, tmp_path, lora):
    server = Vllm(folder)
    rows, learned = trained(folder, engine(server), lora)
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["engine_gap"] < 1e-4  # one reply at a time and many at once: rounding
        assert abs(row["engine_kl"]) < 1e-6
        assert row["ratio_error"] < 1e-4
    loads = [body for path, body in server.asked if path in ("/collective_rpc", "/v1/load_lora_adapter")]
    assert len(loads) == 3  # one per rollout; the held-out prompts have the weights of the next one
    assert not torch.equal(weights(learned), weights(policy(folder, lora)))
    again = trained(folder, engine(Vllm(folder)), lora)
    assert torch.equal(weights(learned), weights(again[1]))
    builtin, _ = trained(folder, rollout.sample, lora)
    assert "engine_gap" not in builtin[0]


def counted(server, route):
    return sum(path == route for path, _ in server.asked)


def once(route, act, after=0):
    """A fault: on the request number `after` to a route, `act` is called, once."""
    seen = []

    def fault(path):
        seen.extend([path] if path == route else [])
        if path == route and len(seen) > after:
            fault.done = True
            act()
        return len(seen) > after

    return fault


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_server_that_lost_the_weights_gets_them_again(folder, engine, lora):
    model, server = moved(policy(folder, lora)), Vllm(folder)
    draw = engine(server)
    expected = draw(model, ROWS, seed=3, **SETTINGS)
    server.restart()  # between two rollouts
    assert draw(model, ROWS, seed=3, **SETTINGS) == expected
    server.faults = [once("/v1/completions", server.restart, after=3)]  # in the midst of one
    assert draw(model, ROWS, seed=3, **SETTINGS) == expected
    server.restart()
    moved(model)
    assert draw(model, ROWS, seed=3, **SETTINGS) != expected


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_server_that_keeps_losing_the_weights_is_an_error(folder, engine, lora):
    server = Vllm(folder)
    draw = engine(server, retries=0)

    def forget(path):
        if path == "/v1/completions":
            server.version = "somebody else's"
            server.adapters.clear()

    server.faults = [forget]
    with pytest.raises(ValueError, match=r"align.generation.url = 'http.*lost the weights plumbline-\w+ twice"):
        draw(moved(policy(folder, lora)), ROWS, seed=3, **SETTINGS)


def test_what_fails_for_now_is_asked_again_and_what_is_wrong_is_not(folder, engine):
    model, server = policy(folder), Vllm(folder)
    draw = engine(server, retries=2)
    expected = draw(model, ROWS, seed=3, **SETTINGS)
    server.asked.clear()

    def fail(status):
        def act():
            raise Fault(status, {"error": {"message": "not now"}})

        return act

    left = [fail(503), fail(0)]  # overload, and a connection that breaks

    def faulty(path):
        if path == "/v1/completions" and left:
            left.pop()()

    server.faults = [faulty]
    assert draw(model, ROWS, seed=3, **SETTINGS) == expected
    assert counted(server, "/v1/completions") == len(ROWS) + 2
    server.asked.clear()
    server.faults = [lambda path: path == "/v1/completions" and fail(400)()]
    with pytest.raises(ValueError, match=r"url = 'http.*/v1/completions answers 400 not now"):
        draw(model, ROWS[:1], seed=3, **SETTINGS)
    assert counted(server, "/v1/completions") == 1
    server.asked.clear()
    server.faults = [lambda path: path == "/v1/completions" and fail(503)()]
    with pytest.raises(ValueError, match=r"/v1/completions failed 3 times, last with: 503 not now; start the server"):
        draw(model, ROWS[:1], seed=3, **SETTINGS)
    assert counted(server, "/v1/completions") == 3


def test_no_server_there_and_no_answer_in_time(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm, "WAIT", 0.001)
    server = Vllm(folder)
    with serving(server) as url:
        pass
    for timeout, address in ((5.0, url), (0.05, None)):
        with contextlib.ExitStack() as stack:
            if address is None:
                address = stack.enter_context(serving(server))
                server.faults = [lambda path: time.sleep(0.2)]
            options = GenerationOptions(engine="server", url=address, timeout=timeout, retries=1)
            draw = stack.enter_context(generation.engine(options, models.load_tokenizer(folder), tmp_path / "w"))
            reason = r"Connection refused" if timeout == 5.0 else r"timed out"
            with pytest.raises(ValueError, match=rf"/v1/models failed 2 times, last with: .*{reason}; start the serv"):
                draw(policy(folder), ROWS, seed=3, **SETTINGS)


def refusals():
    """(how the server is started, options, what is said)"""
    return [
        ({"dev": False}, {}, None, r"/weight_info answers 404 Not Found; start it with VLLM_SERVER_DEV_MODE=1"),
        ({"lora": False}, {}, LORA, r"/v1/load_lora_adapter answers 404 .*--enable-lora and --max-lora-rank"),
        ({}, {"model": "llama"}, None, r"align.generation.model = 'llama': http\S+ serves policy"),
        ({"max_model_len": 10}, {}, None, r"room for 10 tokens, and the longest prompt with its reply has 11; raise"),
        ({"mode": RAW}, {}, None, r"max_logprob_gap = 0.05: log-probs .* nats per token off those of the"),
    ]


@pytest.mark.parametrize(("start", "options", "lora", "message"), refusals())
def test_a_server_that_is_set_up_wrongly_is_one_clear_line(folder, engine, start, options, lora, message):
    draw = engine(Vllm(folder, **start), **options)
    with pytest.raises(ValueError, match=message) as caught:
        draw(policy(folder, lora), ROWS, seed=3, **SETTINGS | {"temperature": 0.5})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("params.yaml: align.generation.")


def test_other_tokens_other_weights_and_a_stranger(folder, engine, tmp_path):
    server = Vllm(folder)
    tokenizer = copy.deepcopy(server.tokenizer)
    server.tokenizer = lambda text, **_: {"input_ids": [3, 4, 5]}
    with pytest.raises(ValueError, match=r"model = 'policy': the server has another tokenizer than data/tokenizer"):
        engine(server)(policy(folder), ROWS, seed=3, **SETTINGS)
    server.tokenizer = tokenizer
    server.model.load_state_dict = lambda state: None  # says that it has loaded the weights, and has not
    with pytest.raises(ValueError, match=r"max_logprob_gap = 0.05"):
        engine(server)(moved(policy(folder)), ROWS, seed=3, **SETTINGS)
    server.answer = lambda path, body: ["hello"]
    with pytest.raises(ValueError, match=r"is this a vLLM server\?"):
        engine(server)(policy(folder), ROWS, seed=3, **SETTINGS)


def changes():
    """(what becomes of a right answer, what is said)"""
    return [
        (lambda a: a.pop("choices"), r"answers without token_ids or logprobs: use vLLM"),
        (lambda a: a["choices"][0].update(logprobs=None), r"answers without token_ids or logprobs"),
        (lambda a: a.update(model="other"), r"answers for the model 'other' instead of 'policy'"),
        (lambda a: a["choices"][0]["prompt_token_ids"].insert(0, 2), r"read other prompt tokens than were sent"),
        (lambda a: a["choices"][0]["logprobs"]["token_logprobs"].pop(), r"each token needs one finite number"),
        (lambda a: a["choices"][0]["logprobs"].update(token_logprobs=[None]), r"each token needs one finite number"),
        (lambda a: a["choices"][0].update(token_ids=[1, 9]), r"ended a reply of 2 tokens by .*--generation-config"),
        (lambda a: a["choices"][0].update(token_ids=[9] * 9), r"ended a reply of 9 tokens by"),
    ]


@pytest.mark.parametrize(("change", "message"), changes())
def test_an_answer_to_something_else_is_refused(folder, engine, change, message):
    server = Vllm(folder)
    complete = server.complete

    def changed(body):
        answer = complete(body)
        change(answer)
        choice = (answer.get("choices") or [{}])[0]
        if message.startswith("ended"):
            choice["logprobs"]["token_logprobs"] = [-1.0] * len(choice["token_ids"])
        return answer

    server.complete = changed
    with pytest.raises(ValueError, match=message):
        engine(server)(policy(folder), [[5, 6, 7]], seed=3, **SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "server"}, r"url\n.*belongs to `engine: server`: give it there"),
        ({"url": "http://x"}, r"url\n.*belongs to `engine: server`: give it there, and null elsewhere"),
        ({"engine": "server", "url": "x:8000"}, r"must start with http:// or https://"),
        ({"engine": "sglang"}, r"Input should be 'builtin' or 'server'"),
        ({"engine": "server", "url": "http://x", "retries": -1}, r"greater than or equal to 0"),
        ({"engine": "server", "url": "http://x", "port": 1}, r"Extra inputs"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        GenerationOptions(**options)


def test_the_builtin_sampler_is_the_default_and_decides_nothing(tmp_path):
    assert GenerationOptions().decide() == {}
    with generation.engine(GenerationOptions(), None, tmp_path / "none") as draw:
        assert draw is rollout.sample
    here = GenerationOptions(engine="server", url="http://here:8000/v1/")
    assert here.url == "http://here:8000"
    assert here.decide() == GenerationOptions(engine="server", url="http://there").decide() != {}


def test_a_folder_for_weights_keeps_what_else_is_in_it(folder, engine, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/mine").write_text("kept")
    draw = engine(Vllm(folder), weights=str(tmp_path / "shared"))
    model = policy(folder)
    for _ in range(2):
        draw(moved(model), ROWS[:1], seed=0, **SETTINGS)
        (own,) = (tmp_path / "shared").glob("plumbline-*")
        assert len(list(own.iterdir())) == 1  # the last weights alone
    assert (tmp_path / "shared/mine").read_text() == "kept"


def test_a_lost_answer_to_new_adapters_is_no_error(folder, engine):
    server = Vllm(folder)
    load = server.load_adapter

    def lossy(**body):
        load(**body)
        server.load_adapter = load
        raise Fault(0)

    server.load_adapter = lossy
    model = policy(folder, LORA)
    assert engine(server)(model, ROWS[:1], seed=0, **SETTINGS)
    assert counted(server, "/v1/load_lora_adapter") == 2


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(generation.ranks, "current", lambda: Ranks(0, 2))
    options = GenerationOptions(engine="server", url="http://x")
    with (
        pytest.raises(ValueError, match=r"engine = 'server': for one process, not 2"),
        generation.engine(options, None, tmp_path),
    ):
        pass


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_fingerprint_is_of_what_is_sent(folder, lora):
    model = policy(folder, lora)
    before = fingerprint(model)
    assert before == fingerprint(policy(folder, lora))
    assert fingerprint(moved(model)) != before
