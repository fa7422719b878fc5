"""The drafters. A further one is a file beside these and a line in ``WITH_WEIGHTS``."""

from importlib import import_module

from dspark_lab.drafters.lookup import Lookup
from dspark_lab.drafters.protocol import Draft, Drafter, NoDrafter

# Class -> file, best first. ``DRAFTERS`` is the tuple of these classes; each says which checkpoints it reads.
WITH_WEIGHTS = {"DSpark": "dspark", "DFlash": "dflash", "DFlash16": "dflash", "Eagle3": "eagle3"}

__all__ = ["DRAFTERS", "DFlash", "DFlash16", "DSpark", "Draft", "Drafter", "Eagle3", "Lookup", "NoDrafter"]


def __getattr__(name):
    """Import drafters with weights only when asked for: with mlx-lm behind them they take most of a second."""
    if name == "DRAFTERS":
        return tuple(__getattr__(drafter) for drafter in WITH_WEIGHTS)
    if name in WITH_WEIGHTS:
        return getattr(import_module(f"{__name__}.{WITH_WEIGHTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
