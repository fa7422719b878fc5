"""The race: plain decoding against speculative decoding, live on this machine or as it was recorded."""

import asyncio
import time

import anywidget
import ipywidgets
import traitlets

from dspark_lab import metrics, plots, race
from dspark_lab.terminal import Ribbon, name_of
from dspark_lab.widgets.looks import looks

LIVE = "live, on this machine"
FRAME = 0.1  # seconds between two pictures: more often costs the race itself time
RULES = (
    "The lanes take turns on one machine, round by round: whichever clock is behind goes next, and a clock runs in its "
    "own lane's turns only. Each bar is a pass, as high as the tokens it gave. Underlined: drafted and accepted."
)


class Lanes(anywidget.AnyWidget):
    """The drawing: ``lanes``, a dict each; ``label``, what is shown; ``status``, the state and then the verdict."""

    _esm, _css = looks("lanes")
    lanes = traitlets.List().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)


class Race(ipywidgets.VBox):
    """Two lanes side by side, with controls: domain, prompt, mode, temperature, draft length, live or recorded.

    ``pair``: what `race.line_up` takes, or None for recorded races alone. ``prompts``: domain -> text. ``traces``:
    races as `race.record` keeps them, with a domain and a stamp. The reader first says which domain will lose;
    ``results``, domain -> how many times as fast as plain decoding, tells. ``max_tokens``: of each lane; ``seed``:
    above temperature 0. The kernel stays free between rounds, so the controls work while a race runs.
    """

    results = traitlets.Dict()

    def __init__(self, pair=None, prompts=None, traces=(), max_tokens=128, seed=0):
        self.pair, self.prompts, self.max_tokens, self.seed = pair, dict(prompts or {}), max_tokens, seed
        self.traces = {f"recorded: {t['domain']}, {t['mode']}, {t['stamp']}": t for t in traces}
        domains = list(dict.fromkeys([*self.prompts, *(t["domain"] for t in traces)]))
        if not domains or (pair is None) != (not self.prompts):
            raise ValueError("nothing to race: give a pair together with prompts by domain, or recorded traces")
        self.drawing, self.stopped, self.task = Lanes(), False, None
        self.make_controls(domains)
        super().__init__([self.guess, *self.settings, ipywidgets.HBox([self.start, self.stop]), self.drawing])

    def make_controls(self, domains):
        """The controls, and what they do."""
        wide = {"layout": {"width": "95%"}, "style": {"description_width": "9em"}}
        modes = [m for m in self.pair.modes if m != "baseline"] if self.pair else []
        sources = [LIVE] * bool(self.pair) + list(self.traces)
        self.guess = ipywidgets.ToggleButtons(options=["no guess yet", *domains], description="which loses?", **wide)
        self.source = ipywidgets.Dropdown(options=sources, description="what runs", **wide)
        self.domain = ipywidgets.Dropdown(options=list(self.prompts), description="domain", **wide)
        self.prompt = ipywidgets.Textarea(self.prompts.get(self.domain.value, ""), description="prompt", rows=3, **wide)
        self.mode = ipywidgets.Dropdown(
            options=modes, value=self.pair and self.pair.default_mode, description="mode", **wide
        )
        self.temperature = ipywidgets.FloatSlider(0.0, min=0, max=1.5, step=0.1, description="temperature", **wide)
        self.draft = ipywidgets.IntSlider(7, min=1, max=7, description="draft length", **wide)
        self.start = ipywidgets.Button(description="start", disabled=True, tooltip="start the race")
        self.stop = ipywidgets.Button(description="stop", disabled=True, tooltip="stop the race")
        self.settings = [self.source, self.domain, self.prompt, self.mode, self.temperature, self.draft]
        self.drawing.label, self.drawing.status = RULES, "Say first which domain will lose, then start."
        self.guess.observe(self.allow, "value")
        self.source.observe(self.allow, "value")
        self.domain.observe(lambda change: setattr(self.prompt, "value", self.prompts[change.new]), "value")
        self.mode.observe(self.fit_draft, "value")
        self.start.on_click(lambda _: self.begin())
        self.stop.on_click(lambda _: setattr(self, "stopped", True))
        self.fit_draft()
        self.allow()

    def fit_draft(self, _=None):
        """Let the draft length go up to the whole block of the chosen mode."""
        if self.pair:
            self.draft.max = self.pair.drafter(self.mode.value).draft_length

    def allow(self, _=None):
        """Let through what can be used now: nothing starts before the guess, and a recording has no settings."""
        running, live = self.task is not None, self.source.value == LIVE
        self.start.disabled = running or self.guess.value == "no guess yet"
        self.stop.disabled = not running
        for control in self.settings:
            control.disabled = running
            control.layout.display = None if live or control is self.source else "none"

    def begin(self):
        """Start in the kernel's own event loop, which goes on answering the controls between rounds."""
        self.task = asyncio.get_running_loop().create_task(self.run())
        self.allow()

    async def run(self):
        """The whole race; a fault in the settings becomes its status."""
        self.stopped = False
        try:
            await (self.run_live() if self.source.value == LIVE else self.run_recorded())
        except ValueError as error:
            self.drawing.status = f"This cannot run: {error}."
        finally:
            self.task = None
            self.allow()

    async def run_live(self):
        """Line the lanes up, which warms them, and let them take turns."""
        self.drawing.status = "Warming up: both lanes decode a little, so that no clock pays for the first use."
        await asyncio.sleep(FRAME)
        temperature, options = self.temperature.value, {"max_tokens": self.max_tokens, "seed": self.seed}
        options |= {"temperature": temperature, "max_draft": self.draft.value}
        lanes = race.line_up(self.pair, self.prompt.value, self.mode.value, **options)
        self.drawing.label = f"Live, on this machine. {RULES}"
        if await self.follow(lanes, self.pair.tokenizer.decode, pace=0):
            same, explanation = race.compare(self.pair, lanes, temperature)
            self.finish(lanes, self.domain.value, same, explanation)

    async def run_recorded(self):
        """Play a trace at the pace at which it was recorded."""
        trace = self.traces[self.source.value]
        lanes, decode = race.replay(trace)
        self.drawing.label = f"A recording, not a live run: {trace['stamp']}. {RULES}"
        if await self.follow(lanes, decode, pace=1):
            self.finish(lanes, trace["domain"], trace["same"], trace["explanation"])

    async def follow(self, lanes, decode, pace):
        """Run ``lanes`` to their end, drawing now and then; whether they got there, or were stopped."""
        self.lanes, ribbons, drawn = lanes, [Ribbon(decode) for _ in lanes], 0.0
        pieces, seen = [[] for _ in lanes], [0 for _ in lanes]
        self.drawing.status = "Running."
        for _ in race.run(lanes):
            for i, lane in enumerate(lanes):
                for r in lane.rounds[seen[i] :]:
                    pieces[i] += [(text, fate) for text, fate in ribbons[i].pieces(r) if fate != "rejected"]
                    await asyncio.sleep(pace * r.seconds)
                seen[i] = len(lane.rounds)
            if time.perf_counter() - drawn > FRAME or self.stopped or all(lane.finished for lane in lanes):
                self.drawing.lanes = [state(lane, said) for lane, said in zip(lanes, pieces)]
                await asyncio.sleep(0.005)  # long enough for the kernel to hear a click on stop
                drawn = time.perf_counter()
            if self.stopped:
                self.drawing.status = "Stopped; the lanes stand where they were."
                return False
        return True

    def finish(self, lanes, domain, same, explanation):
        """Say how the race came out, with what `race.compare` said of it, and what became of the guess."""
        plain, other = (metrics.tokens_per_second(lane.rounds) for lane in lanes)
        self.results = {**self.results, domain: other / plain}
        won = f"{name_of(lanes[1])} was {other / plain:.2f} times as fast as plain decoding on {domain}."
        rest = [d for d in self.guess.options[1:] if d not in self.results]
        slowest = min(self.results, key=self.results.get)
        fared = "lost" if self.results[slowest] < 1 else "won least, and none lost"
        judged = (
            f"{'Right' if slowest == self.guess.value else 'Not so'}: you said {self.guess.value}; {slowest} {fared}."
        )
        told = ", ".join(f"{d} {ratio:.2f}" for d, ratio in self.results.items())
        todo = f"Still to race before your guess is judged: {', '.join(rest)}."
        sentences = (f"Tokens: {same}.", explanation, won, f"So far: {told}.", todo if rest else judged)
        self.drawing.status = " ".join(filter(None, sentences))

    def figure(self):
        """The lanes of the last race as a static figure. Raises ValueError before the first."""
        if not hasattr(self, "lanes"):
            raise ValueError("nothing has been raced yet; start a race first")
        return plots.race({name_of(lane): lane.rounds for lane in self.lanes})


def state(lane, pieces):
    """A lane as the drawing takes it."""
    return {
        "name": name_of(lane),
        "pieces": pieces,
        "lengths": [r.accepted_length for r in lane.rounds],
        "tokens": len(lane.tokens),
        "passes": len(lane.rounds),
        "seconds": lane.seconds,
        "finished": lane.finished,
    }
