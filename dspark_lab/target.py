"""A target as a drafter sees it: logits, tapped hidden states, and a cache that can be rolled back.

Any mlx-lm model will do, and mlx-vlm's language models; their own code runs, and nothing of it is patched. While a pass
is being described to MLX, the layers of this one model stand behind wrappers, which keep what the tapped ones return,
and start the computation of what is described so far while Python goes on.
"""

from contextlib import contextmanager

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from dspark_lab.rollback import recorded, with_rollback
from dspark_lab.standins import StandIn, first, replaced

GPU_LAYERS = 5  # a GPU is started so many layers at a time: every start launches a graph or a command buffer of its own


class Target:
    """A language model with what speculative decoding needs of it.

    ``model``: an mlx-lm model, or mlx-vlm's language model. ``config``: its config.json as a dict.
    """

    def __init__(self, model, config):
        self.model = model
        config = {**config, **config.get("text_config", {})}
        self.vocab_size = config["vocab_size"]
        self.hidden_size = config["hidden_size"]
        self.context_length = config.get("max_position_embeddings")
        self._language = getattr(model, "language_model", model)  # what reads and writes text, where there is more
        self._body = self._language.model
        self.num_layers = len(self._body.layers)
        self._lm_head = getattr(self._language, "lm_head", None)

    def new_cache(self, rollback=True):
        """An empty cache for one text, an entry a layer; with ``rollback`` all can forget. Raises CannotRollBack."""
        cache = make_prompt_cache(self.model)
        return with_rollback(cache, self._body.layers) if rollback else cache

    def forward(self, tokens, cache, taps=()):
        """One pass over ``tokens`` (n,), list or array, that follow what ``cache`` holds; it then holds them too.

        Returns lazily ``logits`` (n, vocab) and ``hidden`` (1, n, len(taps) * hidden_size): the outputs of the layers
        ``taps`` side by side (layers count from 0; -1 is the embedding), or None without taps.
        """
        logits, hidden = self.run(mx.array(tokens)[None], cache, taps)
        return logits[0], hidden

    def run(self, ids, cache, taps):
        """``forward`` for a batch: ``ids`` (B, n) give ``logits`` (B, n, vocab) and ``hidden`` (B, n, taps * d)."""
        with watched(self._body.layers, taps) as outputs, recorded(cache, ids.shape[1]):
            result = self._language(ids, cache=cache)
        logits = getattr(result, "logits", result)  # mlx-vlm's come with more
        if -1 in taps:
            outputs[-1] = self.embed(ids)
        return logits, mx.concatenate([outputs[i] for i in taps], axis=-1) if taps else None

    def rollback(self, cache, n):
        """Make ``cache`` forget its last ``n`` tokens, at most those of its latest pass."""
        for entry in cache if n else ():
            entry.trim(n)

    def embed(self, ids):
        """The target's token embeddings (..., hidden_size), for drafters that bring none of their own.

        Scaled as the target's layers get them, where it scales them (Gemma does).
        """
        return self._body.embed_tokens(ids) * getattr(self._body, "embed_scale", 1.0)

    def head(self, hidden):
        """The target's output head on ``hidden`` (..., hidden_size), for drafters that bring none of their own.

        Without the soft cap that a target may put on its logits: a drafter's config.json names its own.
        """
        return self._lm_head(hidden) if self._lm_head else self._body.embed_tokens.as_linear(hidden)


@contextmanager
def watched(layers, taps):
    """Inside this context ``layers`` (a list) start computing as they are called; yields a dict for the ``taps``.

    The dict holds the tapped layers' outputs, by layer. MLX is lazy: without a start nothing would be computed before
    the whole pass is described, which takes Python a third of the time that the lab target needs for one token.
    """
    outputs, together = {}, 1 if mx.default_device() == mx.cpu else GPU_LAYERS
    starts = range(together - 1, len(layers), together)
    stand_ins = {
        i: _Watched(layers[i], i in starts, i if i in taps else None, outputs) for i in {*starts, *taps} - {-1}
    }
    with replaced(layers, stand_ins):
        yield outputs


class _Watched(StandIn):
    """Calls its layer; if it ``starts``, MLX begins on what is described so far; its output is kept if tapped."""

    def __init__(self, layer, starts, tap, outputs):
        super().__init__(layer)
        self._starts, self._tap, self._outputs = starts, tap, outputs

    def __call__(self, *args, **kwargs):
        result = self._module(*args, **kwargs)
        if self._starts:
            mx.async_eval(first(result))
        if self._tap is not None:
            self._outputs[self._tap] = first(result)
        return result
