"""From Rounds to what the client sees: text, thoughts and tool calls, in pieces or whole, with counts."""

import time
import uuid

from dspark_lab import metrics
from dspark_lab.serve.prompts import whole_characters
from dspark_lab.text import unsettled


class Sections:
    """Tells text, thoughts and tool calls apart in text that arrives in pieces, by the marks around them.

    ``marks``: "reasoning" and "tool" -> (start, end), as far as the model has them; an end of "" is the text's own.
    ``inside``: the part that the text begins in, its start mark being in the prompt; None for plain "content". What may
    be the start of a mark is held back. A "tool" part comes in one piece, its marks left out.
    """

    def __init__(self, marks, inside=None):
        self.marks, self.kind, self.held = marks, inside or "content", ""

    def add(self, text):
        """The parts ``(kind, text)`` that ``text`` completes."""
        self.held += text
        parts = []
        while (part := self.next_part()) is not None:
            parts.append(part)
        return [(kind, text) for kind, text in parts if text or kind == "tool"]

    def next_part(self):
        """The next part that is settled, or None."""
        at, mark, after = self.next_mark()
        if mark:
            part, self.held = (self.kind, self.held[:at]), self.held[at + len(mark) :]
            self.kind = after
            return part
        settled = 0 if self.kind == "tool" else len(self.held) - unsettled(self.held, self.expected())
        part, self.held = (self.kind, self.held[:settled]), self.held[settled:]
        return part if settled else None

    def next_mark(self):
        """``(at, mark, kind after it)`` of the first mark in what is held; ``mark`` is "" if there is none."""
        found = [(at, mark, kind) for mark, kind in self.expected().items() if (at := self.held.find(mark)) >= 0]
        return min(found, default=(0, "", ""))

    def expected(self):
        """The marks that can come now, and the kind of what follows them."""
        if self.kind == "content":
            return {start: kind for kind, (start, _) in self.marks.items()}
        end = self.marks[self.kind][1]
        return {end: "content"} if end else {}

    def finish(self):
        """The part that was held back, now that no text follows; a tool call that lacks its end mark is "unended"."""
        kind = "unended" if self.kind == "tool" and self.marks["tool"][1] else self.kind
        return [(kind, self.held)] if self.held else []


class Answer:
    """An answer in the making; the two kinds of them differ in how they are put into JSON.

    ``settings``: the options that were given to ``stream``; ``job``: the engine's Job.
    """

    prefix, whole_object, chunk_object = "", "", ""

    def __init__(self, pair, prompt, model, settings, job):
        self.model, self.settings, self.job = model, settings, job
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self.deltas = []

    @property
    def finish_reason(self):
        """Why the text ended, or None if it goes on."""
        return self.job.rounds[-1].finish_reason if self.job.rounds else None

    def usage(self):
        """Token counts."""
        completion = sum(len(r.committed) for r in self.job.rounds)
        return {
            "prompt_tokens": self.job.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.job.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.job.cached_tokens},
        }

    def report(self):
        """How it was decoded."""
        rounds = self.job.rounds
        seconds = sum(r.seconds for r in rounds[1:])
        later = sum(len(r.committed) for r in rounds[1:])
        return {
            "mode": self.job.mode,
            "seed": self.settings["seed"],
            "passes": len(rounds),
            "mean_accepted_length": metrics.mean_accepted_length(rounds),
            "tokens_per_second": later / seconds if later else None,
            "first_token_seconds": self.job.first_token_seconds,
        }

    def whole(self):
        """The answer in one piece."""
        head = {"id": self.id, "object": self.whole_object, "created": self.created, "model": self.model}
        return {**head, "choices": [self.choice()], "usage": self.usage(), "x_dspark_lab": self.report()}

    def chunk(self, delta, last=False):
        """A piece of a streamed answer."""
        head = {"id": self.id, "object": self.chunk_object, "created": self.created, "model": self.model}
        piece = {**head, "choices": [self.piece(delta, self.finish_reason if last else None)]}
        return {**piece, "x_dspark_lab": self.report()} if last else piece

    def usage_chunk(self):
        """The piece that ends a streamed answer whose usage was asked for."""
        head = {"id": self.id, "object": self.chunk_object, "created": self.created, "model": self.model}
        return {**head, "choices": [], "usage": self.usage()}


class TextAnswer(Answer):
    """The answer of /v1/completions; its deltas are pieces of text."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"
    opening = ()

    def add(self, r):
        """What a Round adds."""
        self.deltas += [r.text]
        return [r.text] if r.text else []

    def choice(self):
        """The one choice."""
        return self.piece("".join(self.deltas), self.finish_reason)

    def piece(self, delta, finish_reason):
        """The choice of a chunk."""
        return {"index": 0, "text": delta or "", "logprobs": None, "finish_reason": finish_reason}


class ChatAnswer(Answer):
    """The answer of /v1/chat/completions; its deltas are OpenAI's."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    opening = ({"role": "assistant", "content": ""},)

    def __init__(self, pair, prompt, model, settings, job):
        super().__init__(pair, prompt, model, settings, job)
        tokenizer, self.tools, self.calls = pair.tokenizer, prompt.tools, []
        self.parse = tokenizer.tool_parser
        marks = {"reasoning": (tokenizer.think_start, tokenizer.think_end)} if tokenizer.has_thinking else {}
        if prompt.tools:
            marks["tool"] = (tokenizer.tool_call_start, tokenizer.tool_call_end)
        self.marks, self.sections = marks, Sections(marks, prompt.inside)

    @property
    def finish_reason(self):
        """As before, but "tool_calls" if there were any."""
        return "tool_calls" if super().finish_reason and self.calls else super().finish_reason

    def add(self, r):
        """What a Round adds."""
        parts = self.sections.add(r.text) + (self.sections.finish() if r.finish_reason else [])
        deltas = [self.delta(kind, text) for kind, text in parts]
        self.deltas += deltas
        return deltas

    def delta(self, kind, text):
        """A part as a delta; a call that cannot be understood is the text that it was."""
        if kind == "reasoning":
            return {"reasoning_content": text}
        if kind == "content":
            return {"content": text}
        calls = tool_calls(self.parse, text, self.tools)
        if not calls:
            start, end = self.marks["tool"]
            return {"content": start + text + (end if kind == "tool" else "")}
        numbered = [{"index": len(self.calls) + i, **call} for i, call in enumerate(calls)]
        self.calls += calls
        return {"tool_calls": numbered}

    def choice(self):
        """The one choice."""
        message = {"role": "assistant", "content": self.joined("content")}
        message["reasoning_content"] = self.joined("reasoning_content")
        if self.calls:
            message["tool_calls"] = self.calls
        elif message["content"] is None:
            message["content"] = ""
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}

    def joined(self, field):
        """All of the deltas' ``field``, or None if none has it."""
        return "".join(delta.get(field, "") for delta in self.deltas) or None

    def piece(self, delta, finish_reason):
        """The choice of a chunk."""
        return {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish_reason}


def tool_calls(parse, text, tools):
    """The calls in ``text``, what stood between a tool call's marks, in OpenAI's form; [] if it is none.

    ``parse``: mlx-lm's parser for this model; ``tools``: the functions there are, in OpenAI's form.
    """
    names = {tool["function"]["name"] for tool in tools}
    try:
        parsed = parse(text, tools)
        parsed = parsed if isinstance(parsed, list) else [parsed]
        return [tool_call(each, names) for each in parsed]
    except Exception:  # what a model wrote can break any of mlx-lm's dozen parsers
        return []


def tool_call(parsed, names):
    """One parsed call in OpenAI's form. Raises ValueError if it is of no function of these ``names``."""
    if parsed["name"] not in names:
        raise ValueError(f"there is no function {parsed['name']!r}")
    arguments = parsed.get("arguments") or {}
    arguments = arguments if isinstance(arguments, str) else whole_characters(arguments)
    function = {"name": parsed["name"], "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
