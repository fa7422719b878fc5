"""The cost explorer: which draft length wins, in plain ipywidgets and a figure."""

from html import escape

import ipywidgets

from dspark_lab import plots

STRAIGHT = "straight line, by the sliders"


class CostExplorer(ipywidgets.VBox):
    """Sliders for acceptance and costs; the reader says which cap wins, then the curve is shown.

    ``curves``: label -> {tokens in the pass: seconds}, measured verify costs to choose from beside a straight line.
    ``longest``: the longest draft. State is in the sliders' own values; ``shown`` is whether the curve is revealed.
    """

    def __init__(self, curves=None, longest=15):
        self.curves, self.longest = dict(curves or {}), longest
        wide = {"layout": {"width": "95%"}, "style": {"description_width": "16em"}, "continuous_update": False}
        slider = ipywidgets.FloatSlider
        self.acceptance = slider(0.7, min=0, max=0.99, step=0.01, description="acceptance at every position", **wide)
        self.draft = slider(1.0, min=0, max=10, step=0.1, description="a draft, ms", **wide)
        self.intercept = slider(4.0, min=0.1, max=40, step=0.1, description="a pass, ms", **wide)
        self.slope = slider(0.5, min=0, max=15, step=0.05, description="each more token, ms", **wide)
        del wide["continuous_update"]
        self.curve = ipywidgets.Dropdown(options=[STRAIGHT, *self.curves], description="verify cost", **wide)
        self.guess = ipywidgets.BoundedIntText(3, min=0, max=longest, description="which cap wins?", **wide)
        self.reveal = ipywidgets.Button(description="that is my guess", tooltip="show the curve")
        self.picture = ipywidgets.HTML()
        self.shown = False
        self.reveal.on_click(lambda _: self.show())
        sliders = [self.acceptance, self.draft, self.curve, self.intercept, self.slope]
        for control in sliders:
            control.observe(lambda _: self.refresh(), "value")
        self.guess.observe(lambda _: self.hide(), "value")
        self.refresh()
        super().__init__([*sliders, self.guess, self.reveal, self.picture])

    def speeds(self, acceptance=None):
        """Tokens a second at each draft length the curve reaches, at the sliders' acceptance or another."""
        rate = self.acceptance.value if acceptance is None else acceptance
        verify = self.curves.get(self.curve.value) or {
            n: (self.intercept.value + self.slope.value * (n - 1)) / 1000 for n in range(1, self.longest + 2)
        }
        return {
            n - 1: sum(rate**k for k in range(n)) / (seconds + (n > 1) * self.draft.value / 1000)
            for n, seconds in sorted(verify.items())
            if n <= self.longest + 1
        }

    def figure(self):
        """The curve as a static figure."""
        speeds = self.speeds()
        return plots.speed_by_length({"expected": speeds}, plain=speeds.get(0), ceiling=self.speeds(1.0))

    def show(self):
        """Reveal the curve."""
        self.shown = True
        self.refresh()

    def hide(self):
        """A new guess hides the curve again."""
        self.shown = False
        self.refresh()

    def refresh(self):
        """Draw what is to be seen now."""
        straight = self.curve.value == STRAIGHT
        self.intercept.disabled = self.slope.disabled = not straight
        self.picture.value = self.told() if self.shown else '<p role="status">The curve is shown after your guess.</p>'

    def told(self):
        """The figure and what became of the guess, as HTML."""
        speeds, guess = self.speeds(), self.guess.value
        best = max(speeds, key=speeds.get)
        cost = 1 - speeds[guess] / speeds[best] if guess in speeds else None
        loss = "" if not cost else f" Yours reaches {1 - cost:.0%} of its speed."
        said = f"{'Right' if guess == best else 'Not so'}: you said {guess}, and {best} is best.{loss}"
        return f'<p role="status" aria-live="polite">{escape(said)}</p>{self.figure().html()}'
