"""The figures to choose a drafter by say the numbers that they draw."""

import pytest

from dspark_lab import plots


def test_panels_say_the_ends_of_every_line_and_of_every_mark():
    panels = {"math": {"dspark": [0.9, 0.8, 0.75], "dflash": [0.88]}, "chat": {"dspark": [0.7, 0.6]}}
    fig = plots.by_position_panels(panels, "rate", marks={"chat": {"dflash": {1: 0.72, 7: 0.63}, "dspark": {1: 0.5}}})
    assert plots.alt_text(fig) == (
        "Rate. math, dspark: 0.90 at 1 and 0.75 at 3; math, dflash: 0.88 at 1; chat, dspark: 0.70 at 1 and 0.60 at 2; "
        "chat, dflash, published (hollow): 0.72 at 1 and 0.63 at 7; chat, dspark, published (hollow): 0.50 at 1."
    )
    assert [ax.get_title() for ax in fig.axes] == ["math", "chat"]


def test_marks_have_the_style_of_the_series_of_their_name():
    fig = plots.by_position_panels({"math": {"eagle3": [0.9, 0.8]}}, "rate", marks={"math": {"eagle3": {1: 0.81}}})
    line, mark = (
        artist for artist in fig.axes[0].get_lines() if len(artist.get_xdata()) and artist.get_marker() != "_"
    )
    assert (line.get_color(), line.get_marker()) == (mark.get_color(), mark.get_marker())
    assert mark.get_markerfacecolor() == "none"


def test_the_fastest_point_is_the_one_with_most_tokens_a_pass():
    rows = {"dspark": {0: (1, 1), 1: (1.5, 1.8), 7: (3.0, 3.3)}, "eagle3": {0: (1, 1), 7: (5.0, 4.5)}}
    alt = plots.alt_text(plots.against_cost({"code": rows}))
    assert "code: fastest is dspark with 1 draft, 1.80 tokens a round at 1.50 passes, 1.20 times plain" in alt

    alt = plots.alt_text(plots.against_cost({"prose": {"dspark": {0: (1, 1), 1: (2.0, 1.8)}}}))
    assert "prose: fastest is plain decoding, 1.00 tokens a round" in alt


def test_one_measured_speed_has_no_median():
    one, two = (plots.speed_by_length({"dspark": {1: 9, 2: 11}}, {"dspark": has}) for has in ({2: 10}, {1: 10, 2: 10}))
    assert plots.alt_text(one).endswith("measured (crosses) differs by 10.0%.")
    assert plots.alt_text(two).endswith("measured (crosses) differs by 10.0% in the median.")


def test_nothing_to_draw_is_refused():
    for draw in (plots.against_cost, lambda panels: plots.by_position_panels(panels, "rate")):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({})
