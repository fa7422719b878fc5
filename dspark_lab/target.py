"""A target as a drafter sees it: logits, tapped hidden states, and a cache that can be rolled back.

Any mlx-lm model will do; its own code runs, and nothing of it is patched. While a pass is being described to MLX, the
layers of this one model stand behind wrappers, which keep what the tapped ones return, and start each layer's
computation while Python goes on to describe the next.
"""

from contextlib import contextmanager

import mlx.core as mx
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache


class Target:
    """A language model with what speculative decoding needs of it.

    ``model``: an mlx-lm model. ``config``: its config.json as a dict.
    """

    def __init__(self, model, config):
        self.model = model
        text = config.get("text_config", config)
        self.vocab_size = text["vocab_size"]
        self.hidden_size = text["hidden_size"]
        self.num_layers = len(model.layers)
        self.context_length = text.get("max_position_embeddings")
        self._embed_tokens = model.model.embed_tokens
        self._lm_head = getattr(model, "lm_head", None)

    def new_cache(self, rollback=True):
        """An empty key/value cache for one text, one entry a layer; ``rollback``: refuse one that cannot forget."""
        cache = make_prompt_cache(self.model)
        if rollback:
            check_rollback(cache)
        return cache

    def forward(self, tokens, cache, taps=()):
        """One pass over ``tokens`` (a list of n ids) that follow what ``cache`` holds; the cache then holds them too.

        Returns lazily ``logits`` (n, vocab) and ``hidden`` (1, n, len(taps) * hidden_size): the outputs of the layers
        ``taps`` side by side (layers count from 0; -1 is the embedding), or None without taps.
        """
        logits, hidden = self.run(mx.array([tokens]), cache, taps)
        return logits[0], hidden

    def run(self, ids, cache, taps):
        """``forward`` for a batch: ``ids`` (B, n) give ``logits`` (B, n, vocab) and ``hidden`` (B, n, taps * d)."""
        with watched(self.model.layers, taps) as outputs:
            logits = self.model(ids, cache=cache)
        if -1 in taps:
            outputs[-1] = self.embed(ids)
        return logits, mx.concatenate([outputs[i] for i in taps], axis=-1) if taps else None

    def rollback(self, cache, n):
        """Make ``cache`` forget its last ``n`` tokens."""
        if n:
            check_rollback(cache)
            trim_prompt_cache(cache, n)

    def embed(self, ids):
        """The target's token embeddings (..., hidden_size) for drafters that bring none of their own."""
        return self._embed_tokens(ids)

    def head(self, hidden):
        """The target's output head on ``hidden`` (..., hidden_size), for drafters that bring none of their own."""
        return self._lm_head(hidden) if self._lm_head else self._embed_tokens.as_linear(hidden)


@contextmanager
def watched(layers, taps):
    """Inside this context each of ``layers`` (a list) starts computing when called; yields a dict for the ``taps``.

    The dict holds the tapped layers' outputs, by layer. MLX is lazy: without a start nothing would be computed before
    the whole pass is described, which takes Python a fifth of the time that the lab target needs for one token.
    """
    outputs, originals = {}, list(layers)
    try:
        layers[:] = [_Watched(layer, i if i in taps else None, outputs) for i, layer in enumerate(originals)]
        yield outputs
    finally:
        layers[:] = originals


class _Watched:
    """Stands in for a layer during one pass: calls it, starts it, keeps its output if tapped; answers for it."""

    def __init__(self, layer, tap, outputs):
        self._layer, self._tap, self._outputs = layer, tap, outputs

    def __call__(self, *args, **kwargs):
        result = self._layer(*args, **kwargs)
        output = result[0] if isinstance(result, tuple) else result
        mx.async_eval(output)
        if self._tap is not None:
            self._outputs[self._tap] = output
        return result

    def __getattr__(self, name):
        return getattr(self._layer, name)


class CannotRollBack(ValueError):
    """A cache that cannot forget its last tokens, so that a rejected draft could not be undone."""


def check_rollback(cache):
    """Raise CannotRollBack, naming the cache, unless every entry of ``cache`` can forget its last tokens."""
    if can_trim_prompt_cache(cache):
        return
    kinds = sorted({type(c).__name__ for c in cache if not c.is_trimmable()})
    raise CannotRollBack(
        f"the target keeps {', '.join(kinds)} entries that cannot be rolled back, so rejected drafts could not be "
        "undone; only models whose every cache entry can be trimmed are supported (full attention, or a sliding "
        'window that has not wrapped yet). mode="baseline" decodes plainly.'
    )
