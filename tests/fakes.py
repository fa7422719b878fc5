"""A target and a drafter that follow a script, and a byte-level tokenizer: nothing here has weights."""

import mlx.core as mx
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
from mlx_lm.tool_parsers.json_tools import parse_tool_call
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

from dspark_lab.drafters.protocol import Draft
from dspark_lab.sampling import one_hot

VOCAB, END, THINK = 260, 256, 257


class Tape:
    """A cache that is the list of the tokens it holds."""

    def __init__(self):
        self.tokens, self.state = [], ()

    def is_trimmable(self):
        return True


class ScriptedTarget:
    """After n tokens comes ``script[n]``, for certain. Its one hidden state at a token is the token itself."""

    vocab_size, context_length = VOCAB, None

    def __init__(self, script):
        self.script, self.passes = script, 0

    def new_cache(self, rollback=True):
        self.cache = [Tape()]
        return self.cache

    def forward(self, tokens, cache, taps=()):
        self.passes += 1
        held, tokens = cache[0].tokens, mx.array(tokens).tolist()
        held.extend(tokens)
        following = [self.script[n] for n in range(len(held) - len(tokens) + 1, len(held) + 1)]
        hidden = mx.array(tokens).reshape(1, -1, 1) if taps else None
        return 20.0 * one_hot(mx.array(following), VOCAB), hidden

    def rollback(self, cache, n):
        assert 0 <= n <= len(cache[0].tokens)
        del cache[0].tokens[len(cache[0].tokens) - n :]


class ScriptedDrafter:
    """Drafts ``script`` too, but the token after it in the vocabulary at the positions of the text in ``wrong``."""

    mode, taps, confidence_head = "scripted", (0,), True

    def __init__(self, script, draft_length=7, wrong=(), confidence=None):
        self.script, self.draft_length, self.wrong, self.confidence = script, draft_length, wrong, confidence

    def new_cache(self):
        self.cache = []
        return self.cache

    def propose(self, anchor, length, cache, sampling, key):
        start = len(cache) + 1
        drafted = [(self.script[n] + (n in self.wrong)) % VOCAB for n in range(start, start + length)]
        tokens = mx.array(drafted)
        confidence = None if self.confidence is None else mx.array(self.confidence[:length])
        return Draft(tokens, one_hot(tokens, VOCAB), confidence)

    def commit(self, tokens, hidden, cache):
        assert hidden[0, :, 0].tolist() == tokens  # each token with its own state
        cache.extend(tokens)


TEMPLATE = """\
{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}\
{% if add_generation_prompt %}[assistant]{% endif %}"""

CHAT_TEMPLATE = """\
{% if tools %}[tools]{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\
{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}\
{% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}"""


def byte_tokenizer():
    """A token a byte, 0 to 255; 256 ends a text; with a chat template."""
    return TokenizerWrapper(byte_level(chat_template=TEMPLATE), BPEStreamingDetokenizer)


def chat_tokenizer():
    """The same for a model that thinks, between the tokens 257 and 258, and calls tools."""
    tokenizer = byte_level(chat_template=CHAT_TEMPLATE)
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    tools = {"tool_call_start": "<tool_call>", "tool_call_end": "</tool_call>", "tool_parser": parse_tool_call}
    return TokenizerWrapper(tokenizer, BPEStreamingDetokenizer, **tools)


def byte_level(**options):
    """transformers' tokenizer of bytes and the end token."""
    alphabet = {byte: char for char, byte in _characters_of_bytes().items()}
    vocab = {alphabet[byte]: byte for byte in range(256)} | {"<end>": END}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **options)


def _characters_of_bytes():
    """Byte-level BPE's printable stand-ins: character -> byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class AnsweringTarget:
    """Answers the text of every prompt, up to its last "[assistant]" and a <think> behind it, with ``answer(text)``.

    ``gate``: an Event without which no pass begins, for tests that must hold a generation up.
    """

    vocab_size, context_length = VOCAB, 2000

    def __init__(self, answer, gate=None):
        self.answer, self.gate, self.tokenizer = answer, gate, chat_tokenizer()
        self.mark = self.tokenizer.encode("[assistant]")

    def new_cache(self, rollback=True):
        return [Tape()]

    def forward(self, tokens, cache, taps=()):
        if self.gate:
            assert self.gate.wait(30)
        held, tokens = cache[0].tokens, mx.array(tokens).tolist()
        held.extend(tokens)
        following = [self.after(held[:n]) for n in range(len(held) - len(tokens) + 1, len(held) + 1)]
        return 20.0 * one_hot(mx.array(following), VOCAB), None

    def rollback(self, cache, n):
        del cache[0].tokens[len(cache[0].tokens) - n :]

    def after(self, held):
        """The token after ``held``; the end wherever no answer has begun."""
        starts = (at + len(self.mark) for at in range(len(held) - len(self.mark), -1, -1) if held[at] == self.mark[0])
        begun = next((start for start in starts if held[start - len(self.mark) : start] == self.mark), None)
        if begun is None:
            return END
        begun += held[begun : begun + 1] == [THINK]
        reply = [*self.tokenizer.encode(self.answer(self.tokenizer.decode(held[:begun]))), END]
        return reply[min(len(held) - begun, len(reply) - 1)]
