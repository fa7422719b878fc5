"""Figures, from Rounds, metrics and curves alone: one function a figure, each with a description (`alt_text`)."""

from dspark_lab.plots.acceptance import accepted_lengths, by_position, overlaps, suffix_decay
from dspark_lab.plots.charts import bars, curves
from dspark_lab.plots.choose import against_cost, by_position_panels
from dspark_lab.plots.confidence import order, reliability, separation, threshold_sweep
from dspark_lab.plots.cost import agreement, budget, scheduling, speed_by_length, throughput, verify_cost
from dspark_lab.plots.inside import CacheStep, attention, cache_steps, caches, markov_bias
from dspark_lab.plots.rounds import race, ribbon, round_parts, seconds_by_part
from dspark_lab.plots.rules import accept_rule, laws, pair_laws
from dspark_lab.plots.style import Picture, alt_text

__all__ = [
    "CacheStep",
    "Picture",
    "accept_rule",
    "accepted_lengths",
    "against_cost",
    "agreement",
    "alt_text",
    "attention",
    "bars",
    "budget",
    "by_position",
    "by_position_panels",
    "cache_steps",
    "caches",
    "curves",
    "laws",
    "markov_bias",
    "order",
    "overlaps",
    "pair_laws",
    "race",
    "reliability",
    "ribbon",
    "round_parts",
    "scheduling",
    "seconds_by_part",
    "separation",
    "speed_by_length",
    "suffix_decay",
    "threshold_sweep",
    "throughput",
    "verify_cost",
]
