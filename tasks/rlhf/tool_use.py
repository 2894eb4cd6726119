"""Replies that call tools: `<calculator>2 + 3</calculator>` is answered by `<result>5</result>`, and the reply goes on.

The tokens of a result are context and not the policy's doing: no loss, KL or entropy is taken on them (Jin 2025,
arXiv:2503.09516, section 3.1). A reply is sampled on past a call and cut at the end of it: what stands before a cut is
a sample of the policy all the same. Only what the policy wrote itself is read for calls, never a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.rlhf.rewards import read_tables
from tasks.rlhf.rollout import Reply, sample
from tasks.rlhf.tool_options import ToolsOptions
from tasks.rlhf.tools import calculator, python, search
from tasks.rlhf.verification import Resources, RunCode

TOOLS = {"calculator": calculator, "python": python, "search": search}
_OF_TURN = 1_000_000_000_039  # times the turn, added to the seed: beyond what steps and redraws add


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """What replies may call, and how text and tokens become each other."""

    names: Sequence[str]
    resources: Resources
    max_calls: int  # in a reply; later ones are text like any other
    max_result_tokens: int
    encode: Callable[[str], list[int]]  # without special tokens, whatever the text holds
    decode: Callable[[Sequence[int]], str]


@dataclass
class _Draft:
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    drawn_logprobs: list[float] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    served: bool = False  # by another engine

    def add(self, ids: Sequence[int], reply: Reply | None) -> None:
        """The first tokens of a reply of the policy or, without one, tokens of a tool."""
        none = [0.0] * len(ids)
        self.ids += ids
        self.logprobs += reply.logprobs[: len(ids)] if reply else none
        self.drawn_logprobs += (reply.drawn_logprobs or reply.logprobs)[: len(ids)] if reply else none
        self.own += [reply is not None] * len(ids)
        self.served |= reply is not None and reply.drawn_logprobs is not None


def sampler_for(
    options: ToolsOptions,
    tokenizer: Any,
    run_code: RunCode,
    inputs: Path,
    draw: Callable[..., list[Reply]] = sample,
) -> Callable[..., list[Reply]]:
    """The sampler that the options ask for, over `draw`.

    Raises ValueError where a tool cannot work here, before anything is sampled.
    """
    if not options.names:
        return draw
    from tokenizers import Tokenizer

    content = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    content.encode_special_tokens = True  # "<eos>" in a result is five characters
    tables = {} if options.corpus is None else read_tables({search.TABLE: options.corpus}, inputs)
    resources = Resources(tables, run_code)
    if options.corpus is not None:
        resources.index(search.TABLE, search.build)
    if "python" in options.names:
        run_code("")  # refused here, and not in the first rollout

    return sampler(
        Toolbox(
            names=options.names,
            resources=resources,
            max_calls=options.max_calls,
            max_result_tokens=options.max_result_tokens,
            encode=lambda text: list(content.encode(text, add_special_tokens=False).ids),
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        ),
        draw,
    )


def sampler(toolbox: Toolbox, draw: Callable[..., list[Reply]] = sample) -> Callable[..., list[Reply]]:
    """A function like `draw`; `max_new_tokens` bounds tokens of policy and tools together."""

    def sample_with_tools(
        model: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, seed: int, eos_id: int, **settings: Any
    ) -> list[Reply]:
        drafts = [_Draft() for _ in prompts]
        waiting = list(range(len(prompts)))
        for turn in range(toolbox.max_calls + 1):
            room = {row: max_new_tokens - len(drafts[row].ids) for row in waiting}
            sampled = draw(
                model,
                [[*prompts[row], *drafts[row].ids] for row in waiting],
                max_new_tokens=max(room.values()),
                seed=seed + turn * _OF_TURN,
                eos_id=eos_id,
                **settings,
            )
            called = []
            for row, reply in zip(waiting, sampled, strict=True):
                ids = reply.ids[: room[row]]
                call = _first_call(ids, toolbox) if turn < toolbox.max_calls else None
                end = call[0] if call else len(ids)
                drafts[row].add(ids[:end], reply)
                drafts[row].finished = ids[end - 1] == eos_id
                if call and _answer(drafts[row], *call[1:], toolbox, max_new_tokens):
                    called.append(row)
            waiting = called
            if not waiting:
                break
        return [_reply(draft, prompt, toolbox) for prompt, draft in zip(prompts, drafts, strict=True)]

    return sample_with_tools


def _reply(draft: _Draft, prompt: Sequence[int], toolbox: Toolbox) -> Reply:
    trace = {"prompt": toolbox.decode(prompt), "reply": toolbox.decode(draft.ids), "calls": draft.calls}
    drawn = draft.drawn_logprobs if draft.served else None
    return Reply(draft.ids, draft.logprobs, draft.finished, draft.own, drawn, trace)


def _answer(draft: _Draft, name: str, argument: str, toolbox: Toolbox, max_new_tokens: int) -> bool:
    """Add the result of a call; False where it leaves no room to go on."""
    tool = TOOLS[name]
    result = tool.use(argument, toolbox.resources)
    draft.calls.append({"tool": name, "argument": argument, "result": result, "ok": not tool.failed(result)})
    kept = toolbox.encode(result)[: toolbox.max_result_tokens]
    ids = [*toolbox.encode("<result>"), *kept, *toolbox.encode("</result>")]
    if len(draft.ids) + len(ids) >= max_new_tokens:
        return False
    draft.add(ids, None)
    return True


def _first_call(ids: Sequence[int], toolbox: Toolbox) -> tuple[int, str, str] | None:
    """(number of tokens up to its end, tool, argument) of the first complete call."""
    if _parse(toolbox.decode(ids), toolbox.names) is None:
        return None
    ends = ((end, _parse(toolbox.decode(ids[:end]), toolbox.names)) for end in range(1, len(ids) + 1))
    return next((end, *call) for end, call in ends if call)


def _parse(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """(tool, argument) of the call that is complete first."""
    ends = []
    for name in names:
        begin = text.find(f"<{name}>")
        end = text.find(f"</{name}>", begin)
        if 0 <= begin < end:
            ends.append((end, name, text[begin + len(name) + 2 : end]))
    return min(ends)[1:] if ends else None
