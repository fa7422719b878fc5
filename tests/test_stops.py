"""Where a rule stops is marked inside the figure, and labels of two rules never lie on one another."""

from dspark_lab import plots
from dspark_lab.plots.style import INK

SMOOTH, STAIRCASE = (
    [1, 1.107, 1.029, 0.917, 0.81, 0.72, 0.643, 0.579],
    [1, 0.965, 1.174, 1.3, 1.381, 1.391, 1.42, 1.442],
)
STOPS = {"smooth": {"Algorithm 1": 1, "delayed": 1}, "staircase": {"Algorithm 1": 0, "delayed": 7}}


def test_rules_that_stop_together_share_a_label_and_no_label_covers_another():
    fig = plots.scheduling({"smooth": SMOOTH, "staircase": STAIRCASE}, STOPS)
    fig.draw_without_rendering()
    (ax,) = fig.axes
    labels = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert set(labels) == {"Algorithm 1, delayed: 1", "Algorithm 1: 0", "delayed: 7"}
    boxes = list(labels.values())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1 for box in boxes)
    assert "delayed stops at 1 with 1.107" in plots.alt_text(fig)
    assert "Algorithm 1 stops at 0 with 1.000" in plots.alt_text(fig)


def test_a_rule_borrows_no_curve_s_colour_and_the_axis_names_its_unit():
    fig = plots.scheduling({"smooth": SMOOTH, "staircase": STAIRCASE}, STOPS, "times plain")
    (ax,) = fig.axes
    assert {text.get_color() for text in ax.texts} == {INK}
    assert INK not in {line.get_color() for line in ax.get_lines()}
    assert ax.get_ylabel() == "expected throughput, times plain"
    assert plots.alt_text(fig).startswith("Expected throughput, times plain, by draft tokens admitted.")
