"""What a figure's series look like, and the intervals about them."""

import pytest

from dspark_lab import plots
from dspark_lab.plots import style


def test_no_two_series_of_a_figure_look_alike():
    for labels in (["math", "dflash", "DSpark", "x"], ["a", "b", "c", "lookup"], ["plain", "baseline", "eagle3"]):
        assert len({one["color"] for one in style.styles(labels)}) == len(labels), labels
    seven = [*"abcdef", "dspark"]
    assert style.styles(seven)[-1] == style.STYLES[0] and len({one["marker"] for one in style.styles(seven)}) == 7
    with pytest.raises(ValueError, match="8 series, and 7 can be told apart"):
        plots.curves({label: {1: 1} for label in "abcdefgh"}, "x", "y")


def test_a_mode_looks_the_same_in_every_figure():
    for labels in (["dspark", "dflash"], ["dflash", "other", "dspark"], ["other", "DFlash"]):
        looks = dict(zip(map(str.lower, labels), style.styles(labels)))
        assert looks["dflash"] == style.STYLES[style.MODES["dflash"]], labels


def test_a_legend_is_read_row_by_row():
    legend = plots.laws({label: [0.5, 0.5] for label in "pABCDE"}).legends[0]
    fills = [text.get_text() for text in legend.get_texts()]  # the first column from top to bottom, then the second ...
    assert fills == ["p", "D", "A", "E", "B", "C"]  # so the rows are p A B C and D E


def test_bounds_look_like_no_curve():
    costs = {f"machine {i}": {1: 0.01, 8: 0.02} for i in range(4)}
    fig = plots.verify_cost(costs, bounds={name: {1: 0.001, 8: 0.002} for name in ("bytes", "FLOPs")})
    assert len({line.get_color() for line in fig.axes[0].get_lines() if len(line.get_xdata()) == 2}) == 6


SWAPPED = {  # each is given an interval whose bounds are swapped
    "with_interval": lambda: plots.verify_cost({"a": {1: (0.01, 0.02, 0.005)}}),
    "curves": lambda: plots.curves({"a": [(1, 0.5, 0.6, 0.4)]}, "x", "y"),
    "laws": lambda: plots.laws({"p": [0.5, 0.5]}, "ab", {"p": [(0.4, 0.6), (0.6, 0.4)]}),
    "bars": lambda: plots.bars({"dspark": {"math": (6.1, 6.3, 5.8)}}, "τ"),
    "speed_by_length": lambda: plots.speed_by_length({"dspark": {2: 340}}, {"dspark": {2: (335, 350, 320)}}),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_swapped_bounds_of_an_interval_are_refused(name):
    with pytest.raises(ValueError, match=r"lies outside its interval, .* low first"):
        SWAPPED[name]()


def test_reach_is_the_distance_to_both_bounds():
    assert style.reach([1, 0.5], [0.75, 0.5 + 1e-9], [1, 0.75]).tolist() == [[0.25, 0], [0, 0.25]]
