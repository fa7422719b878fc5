"""From tokens to text, piece by piece, up to a stop string."""


class TextStream:
    """The text of tokens that arrive some at a time, without what may turn out not to be text.

    Held back are the bytes of an unfinished character, and an end that may be the start of a stop string; so a reader
    never sees what is taken away later. ``ended``: a stop string was found, and the text stands just before it.

    ``tokenizer``: mlx-lm's TokenizerWrapper, or None, which makes no text. ``previous``: the token before the first,
    since mlx-lm's detokenizer drops a space in front of a text's first word, and a continuation's is none.
    """

    def __init__(self, tokenizer, previous, stop=(), stop_tokens=()):
        self.detokenizer = None if tokenizer is None else tokenizer.detokenizer
        self.stop, self.stop_tokens = stop, stop_tokens
        self.held, self.ended = "", False
        if self.detokenizer:
            self.detokenizer.add_token(previous)
            self.detokenizer.finalize()
            self.detokenizer.last_segment  # noqa: B018  (reading it moves on: the prompt is not part of the text)

    def add(self, tokens):
        """The text that ``tokens`` add, and how many of them there are up to the end of a stop string."""
        text = ""
        for i, token in enumerate(tokens if self.detokenizer else []):
            if token not in self.stop_tokens:
                self.detokenizer.add_token(token)
                text += self.release(self.detokenizer.last_segment)
            if self.ended:
                return text, i + 1
        return text, len(tokens)

    def finish(self):
        """The text that was held back, now that no token follows."""
        if not self.detokenizer:
            return ""
        self.detokenizer.finalize()
        text = self.release(self.detokenizer.last_segment)
        return text if self.ended else text + self.held

    def release(self, new):
        """What of the held and the ``new`` text is settled: all up to a stop string or to what may become one."""
        text = self.held + new
        if found := [(at + len(string), at) for string in self.stop if (at := text.find(string)) >= 0]:
            self.ended, self.held = True, ""
            return text[: min(found)[1]]  # the one that is complete first
        settled = len(text) - unsettled(text, self.stop)
        self.held = text[settled:]
        return text[:settled]


def unsettled(text, strings):
    """How many characters at the end of ``text`` may turn out to be the start of one of ``strings``."""
    starts = (n for string in strings for n in range(1, len(string)) if text.endswith(string[:n]))
    return max(starts, default=0)
