"""From a prompt to text: what stands around the decode loop."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import mlx.core as mx

from dspark_lab import metrics
from dspark_lab.auto import Auto
from dspark_lab.cost import measure_costs
from dspark_lab.decode import decode
from dspark_lab.rounds import Round
from dspark_lab.sampling import Sampling
from dspark_lab.schedule import Cap, Threshold, WholeDraft
from dspark_lab.text import TextStream


@dataclass
class Result:
    """A whole generation. ``text`` leaves out what ended it, a stop token or stop string; ``tokens`` has it.

    ``rounds``: one Round a pass of the target; their ``text`` and ``committed``, one after the other, are ``text`` and
    ``tokens``. ``prompt_tokens``: how many the prompt had. ``finish_reason``: "stop" or "length".
    """

    text: str
    tokens: list[int]
    rounds: list[Round]
    prompt_tokens: int
    mode: str
    finish_reason: str

    @property
    def mean_accepted_length(self):
        """Tokens per pass of the target, its own included; plain decoding has 1."""
        return metrics.mean_accepted_length(self.rounds)

    @property
    def seconds(self):
        """Seconds that the rounds took; the prompt's own pass is not in it."""
        return sum(r.seconds for r in self.rounds)

    @property
    def tokens_per_sec(self):
        """Tokens per second of ``seconds``."""
        return metrics.tokens_per_second(self.rounds)


def generate(pair, prompt, mode=None, *, chat=True, **options):
    """Continue ``prompt`` with ``pair`` and return a Result; arguments, options and errors are those of ``stream``."""
    mode = pair.resolve(mode)
    prompt = encode_prompt(pair, prompt, chat)
    rounds = list(stream(pair, prompt, mode, **options))
    return Result(
        text="".join(r.text for r in rounds),
        tokens=[token for r in rounds for token in r.committed],
        rounds=rounds,
        prompt_tokens=len(prompt),
        mode=mode,
        finish_reason=rounds[-1].finish_reason,
    )


def stream(
    pair,
    prompt,
    mode=None,
    *,
    max_tokens=128,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    seed=0,
    max_draft=None,
    confidence_threshold=0.0,
    stop=(),
    chat=True,
    keep_probs=False,
    prefix_cache=None,
):
    """Continue ``prompt`` and return an iterator of Rounds, each with the ``text`` it added.

    ``prompt``: text (put into the chat template as a user's turn where the tokenizer has one, unless ``chat`` is
    False), a list of chat messages ({"role": ..., "content": ...}), or a list of token ids. ``mode``: one of
    ``pair.modes``, or None for ``pair.default_mode``. ``max_tokens``: never exceeded; prompt and output together also
    stay within the target's context, and a text that ends there has finish_reason "length". ``temperature`` (0 is
    greedy), ``top_p``, ``top_k`` (0 keeps all): see Sampling. ``seed``: the same one gives the same text in the same
    mode on the same machine; another mode gives the same distribution. ``max_draft``: tokens drafted a round at most
    (None: the drafter's whole block; 0: none), or "auto": as many as pay on this machine (`auto.py`), whose costs the
    first such call measures for some seconds and remembers (`cost.py`). ``confidence_threshold``: verify a draft while
    each position's confidence reaches it. ``stop``: a string or strings that end the text just before them.
    ``keep_probs``: keep p and q whole in the Rounds. ``prefix_cache``: a PrefixCache of this pair, which spares the
    prompt's beginning its pass where an earlier text began with the same tokens, and remembers this text.

    All arguments are checked at the call. Raises ValueError that says what to give instead. An iterator that is closed
    or interrupted leaves nothing behind in ``pair``.
    """
    mode = pair.resolve(mode)
    drafter = pair.drafter(mode)
    sampling = Sampling(temperature, top_p, top_k)
    schedule = make_schedule(pair, mode, max_draft, confidence_threshold)
    whole_number("max_tokens", max_tokens, 1)
    whole_number("seed", seed, 0, 2**64 - 1)
    stop = stop_strings(stop, pair.tokenizer)
    prompt = encode_prompt(pair, prompt, chat)
    if drafter.draft_length:
        pair.target.new_cache()  # refuses a model whose caches cannot be rolled back
    if prefix_cache is not None and prefix_cache.pair is not pair:
        raise ValueError(f"the prefix cache is of the pair {prefix_cache.pair.name}; make one with PrefixCache(pair)")
    begin = partial(decode, pair.target, drafter) if prefix_cache is None else partial(prefix_cache.decode, mode)
    rounds = begin(
        prompt,
        sampling=sampling,
        schedule=schedule,
        max_tokens=room(pair.target.context_length, len(prompt), max_tokens),
        stop_tokens=pair.stop_tokens,
        key=mx.random.key(int(seed)),
        keep_probs=keep_probs,
    )
    return with_text(rounds, TextStream(pair.tokenizer, prompt[-1], stop, pair.stop_tokens))


def with_text(rounds, text):
    """``rounds`` with what each adds to ``text`` (a TextStream); a stop string cuts the round short and ends them."""
    with closing(rounds):
        for r in rounds:
            add_text(r, text)
            yield r
            if text.ended:
                return


def add_text(r, text):
    """Give the Round ``r`` what it adds to ``text`` (a TextStream), and cut it short at a stop string."""
    r.text, kept = text.add(r.committed)
    if text.ended:
        r.committed = r.committed[:kept]
        r.ending = "stop" if kept <= r.accepted else r.ending
        r.finish_reason = "stop"
    elif r.finish_reason:
        r.text += text.finish()
        r.finish_reason = "stop" if text.ended else r.finish_reason


def encode_prompt(pair, prompt, chat=True):
    """The token ids of ``prompt``: text, chat messages or token ids. Raises ValueError for none or ids out of range."""
    if not isinstance(prompt, str | list | tuple):
        raise ValueError(f"the prompt is a {type(prompt).__name__}; give text, chat messages or a list of token ids")
    if not prompt:
        raise ValueError("the prompt is empty; give some text, a chat message or a token id to continue")
    if not isinstance(prompt, str) and all(isinstance(token, Integral) for token in prompt):
        ids = [int(token) for token in prompt]
    elif pair.tokenizer is None:
        raise ValueError(f"the pair {pair.name} has no tokenizer; give the prompt as a list of token ids")
    elif isinstance(prompt, str):
        template = chat and pair.tokenizer.has_chat_template
        ids = encode_chat(pair, [{"role": "user", "content": prompt}]) if template else pair.tokenizer.encode(prompt)
    else:
        ids = encode_chat(pair, prompt)
    if not ids:
        raise ValueError("the prompt has no tokens; give some text, a chat message or a token id to continue")
    if bad := [token for token in ids if not 0 <= token < pair.target.vocab_size]:
        raise ValueError(f"token ids {bad[:5]} are out of range; the target has 0 to {pair.target.vocab_size - 1}")
    return ids


def encode_chat(pair, messages, **template):
    """The token ids of chat ``messages`` in the tokenizer's template, up to where the assistant begins.

    ``template``: what else the template is given, such as ``tools`` or ``enable_thinking``.
    """
    from jinja2 import TemplateError

    if not all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages):
        raise ValueError('a prompt that is a list holds token ids, or messages like {"role": "user", "content": "..."}')
    if not pair.tokenizer.has_chat_template:
        raise ValueError(f"the tokenizer of {pair.name} has no chat template; give the prompt as text")
    try:
        return pair.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, **template)
    except TemplateError as error:
        raise ValueError(f"the chat template of {pair.name} does not take these messages: {error}") from None


def room(context_length, prompt_tokens, max_tokens):
    """How many of ``max_tokens`` fit behind the prompt. Raises ValueError if none does."""
    if context_length is None:
        return max_tokens
    if prompt_tokens >= context_length:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens, which leaves no room in the target's context of {context_length}; "
            f"give at most {context_length - 1}"
        )
    return min(max_tokens, context_length - prompt_tokens)


def make_schedule(pair, mode, max_draft, threshold):
    """The schedule that ``max_draft`` and ``confidence_threshold`` ask for. Raises ValueError if the drafter cannot."""
    drafter = pair.drafter(mode)
    if not 0 <= threshold <= 1:
        raise ValueError(f"confidence_threshold is {threshold}; give a probability, from 0 (verify all) to 1")
    if threshold and not hasattr(drafter, "confidence_head"):
        raise ValueError(f"mode {drafter.mode} has no confidence head, so confidence_threshold must be 0")
    if max_draft == "auto":
        if threshold:
            raise ValueError('max_draft "auto" reads the confidence itself; leave confidence_threshold 0')
        return Auto(measure_costs(pair, mode)) if drafter.draft_length else WholeDraft()
    if max_draft is not None:
        note = f' (mode {drafter.mode}\'s whole block), or "auto"'
        whole_number("max_draft", max_draft, 0, drafter.draft_length, note)
    if threshold:
        return Threshold(threshold, max_draft)
    return WholeDraft() if max_draft is None else Cap(max_draft)


def stop_strings(stop, tokenizer):
    """``stop``, a string or several, as a tuple of them."""
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(string, str) and string for string in stop):
        raise ValueError(f"stop is {stop}; give strings of at least one character")
    if stop and tokenizer is None:
        raise ValueError("a pair without a tokenizer has no text to look for stop strings in; leave stop empty")
    return stop


def whole_number(name, value, low, high=None, note=""):
    """Raise ValueError unless ``value`` is a whole number from ``low`` to ``high`` (None: without end)."""
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}; give a whole number {limits}{note}")
