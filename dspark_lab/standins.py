"""Putting something else in the place of parts of one model, for the time of one pass."""

from contextlib import contextmanager


@contextmanager
def replaced(owner, stand_ins):
    """Inside this context ``owner`` (a list, or a module by attribute) has ``stand_ins`` in its own parts' places."""
    originals = {key: owner[key] for key in stand_ins}
    try:
        for key, stand_in in stand_ins.items():
            owner[key] = stand_in
        yield
    finally:
        for key, original in originals.items():
            owner[key] = original


class StandIn:
    """Answers for ``module`` in everything but what a subclass does when it is called."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


def first(result):
    """What a layer passes on, of a ``result`` that may have more behind it."""
    return result[0] if isinstance(result, tuple) else result
