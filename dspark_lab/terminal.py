"""What the command line draws, from Rounds alone: drafted tokens by their fate, and a race with its verdict."""

import sys

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dspark_lab import metrics

# Colours of Okabe and Ito's that keep a contrast of about 3 or more on black and on white alike, and a glyph for each,
# since colour is never the only cue.
FATES = {
    "accepted": ("·", "#009E73"),
    "rejected": ("×", "strike #D55E00"),
    "correction": ("→", "bold #CC79A7"),
    "bonus": ("+", "bold #0072B2"),
}
BARS = "▁▂▃▄▅▆▇█"
CONTEXT = 8  # tokens behind which a piece is decoded; a character or a word is rarely more
SHOWN = str.maketrans(  # control characters, which a terminal would obey, as their pictures
    {"\t": "    ", 127: "␡"}
    | {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\t\n"}
    | dict.fromkeys(range(128, 160), "\ufffd")
)


def fates(r):
    """The Round's tokens as a reader meets them, each with its fate: ``[(token, fate), ...]``.

    First those accepted; then, before a correction, the drafted token that it replaces; then the target's own, whose
    fate is None where nothing had been drafted. Drafts behind a rejection, or kept from being verified, are left out.
    """
    tokens = [(token, "accepted") for token in r.committed[: r.accepted]]
    if r.ending == "correction":
        tokens.append((r.drafted[r.accepted], "rejected"))
    if r.ending != "stop":
        tokens.append((r.committed[-1], r.ending if r.drafted else None))
    return tokens


class Ribbon:
    """The tokens of one text, drawn round by round. ``decode``: from a list of token ids to text."""

    def __init__(self, decode):
        self.decode, self.tokens = decode, []

    def marked(self, r):
        """The Round as a Text: a glyph before every token's first visible character, the rejected draft among them."""
        line = Text()
        for piece, fate in self.pieces(r):
            glyph, style = FATES.get(fate, ("", ""))
            piece = piece.replace("\n", "⏎") if fate == "rejected" else piece
            word = piece.lstrip() or piece
            line.append(piece[: len(piece) - len(word)])
            line.append(glyph + word, style)
        return line

    def plain(self, r):
        """The Round's text alone, as a Text; what was drafted and accepted is coloured and underlined."""
        line = Text()
        for piece, fate in self.pieces(r):
            if fate != "rejected":
                line.append(piece, "underline " + FATES["accepted"][1] if fate == "accepted" else "")
        return line

    def pieces(self, r):
        """The text and the fate of each of the Round's tokens; the text is safe to show on a terminal."""
        self.tokens = self.tokens or [r.anchor]
        for token, fate in fates(r):
            yield piece(self.decode, self.tokens, token).translate(SHOWN), fate
            if fate != "rejected":
                self.tokens.append(token)


def piece(decode, before, token):
    """The text that ``token`` adds behind the tokens ``before``; ``decode``: from a list of token ids to text."""
    known = decode(before[-CONTEXT:]).rstrip("\ufffd")  # part of a character shows no text yet
    return decode([*before[-CONTEXT:], token]).rstrip("\ufffd")[len(known) :]


def legend(rounds):
    """What the glyphs and colours of ``Ribbon.marked`` mean, with how many there were of each, as a Text."""
    shown = [fate for r in rounds for _, fate in fates(r)]
    line = Text()
    for fate, (glyph, style) in FATES.items():
        line.append(f"{glyph} {fate} {shown.count(fate)}", style.replace("strike ", ""))
        line.append("   ")
    unused = sum(r.draft_length for r in rounds) - shown.count("accepted") - shown.count("rejected")
    return line.append(f"({unused} more drafted, behind a rejection or a stop, or not verified)")


def summary(rounds):
    """One line of figures about ``rounds``, which are a whole text's."""
    tokens, seconds = sum(r.accepted_length for r in rounds), sum(r.seconds for r in rounds)
    end = "at a stop token" if rounds[-1].finish_reason == "stop" else "at the limit of tokens"
    return (
        f"{tokens} tokens in {len(rounds)} passes ({metrics.mean_accepted_length(rounds):.2f} a pass), "
        f"{seconds:.2f} s, {tokens / seconds:.0f} tokens a second; ended {end}"
    )


RULES = """\
Both lanes run on this machine, in turns, round by round: whichever clock is behind goes next. A clock is the sum of \
its own lane's rounds; the prompt's pass is in neither. Each bar is a pass, as high as the tokens it gave."""
UNDERLINED = " Underlined: drafted and accepted."


class Track:
    """A Lane of a race as it is drawn. ``decode``: from a list of token ids to text."""

    def __init__(self, lane, decode):
        self.lane, self.ribbon, self.text, self.drawn = lane, Ribbon(decode), Text(), 0

    def lines(self, console, width):
        """The lane's text so far, wrapped to ``width``: a list of Texts."""
        for r in self.lane.rounds[self.drawn :]:
            self.text.append(self.ribbon.plain(r))
        self.drawn = len(self.lane.rounds)
        return list(self.text.wrap(console, width))

    def panel(self, lines, width, best):
        """The lane in a box: its text's ``lines``, a bar a pass as high as the tokens it gave, and its clock."""
        lane, colour = self.lane, FATES["accepted"][1]
        lengths = [r.accepted_length for r in lane.rounds][-(width - 4) :]
        bars = "".join(BARS[(n - 1) * (len(BARS) - 1) // max(best - 1, 1)] for n in lengths)
        clock = f"{lane.seconds:5.2f} s   {len(lane.tokens)} tokens   {len(lane.rounds)} passes"
        clock = Text(clock, "bold", no_wrap=True, overflow="ellipsis")
        return Panel(
            Group(Text("\n").join(lines), "", Text(bars, colour), clock),
            title=f"{name_of(lane)}{', finished' if lane.finished else ''}",
            border_style=colour if lane.finished else "",
            width=width,
        )


def name_of(lane):
    """What a lane is called."""
    return "plain" if lane.mode == "baseline" else lane.mode


def race_frame(tracks, console, height=None):
    """The two ``tracks`` side by side, their texts cut to the last ``height`` lines, or whole."""
    width = max((console.width - 1) // 2, 16)
    texts = [track.lines(console, width - 4) for track in tracks]
    best = max((r.accepted_length for track in tracks for r in track.lane.rounds), default=1)
    rows = min(max(map(len, texts)), height or sys.maxsize)
    filled = [text[-rows:] + [Text()] * (rows - len(text)) for text in texts]
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(*(track.panel(lines, width, best) for track, lines in zip(tracks, filled)))
    return grid


def verdict(lanes, same, explanation):
    """How a finished race of two ``lanes`` came out, as a Panel: tokens the same or not, passes, seconds, the ratio.

    ``same``: whether the tokens are the same, in a few words; ``explanation``: a sentence on that, or "".
    """
    plain, other = (lane.rounds for lane in lanes)
    length = metrics.mean_accepted_length(other) / metrics.mean_accepted_length(plain)
    slow, fast = metrics.tokens_per_second(plain), metrics.tokens_per_second(other)
    table = Table.grid(padding=(0, 3, 0, 0))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify)
    table.add_row("", *(Text(name_of(lane), "bold") for lane in lanes), "")
    table.add_row("tokens", *(str(len(lane.tokens)) for lane in lanes), Text(same, "bold"))
    table.add_row("passes", *(str(len(lane.rounds)) for lane in lanes), f"{length:.2f} tokens a pass")
    table.add_row("seconds", *(f"{lane.seconds:.2f}" for lane in lanes), "")
    table.add_row("tokens a second", f"{slow:.0f}", f"{fast:.0f}", Text(f"{fast / slow:.2f} times as fast", "bold"))
    reason = (
        f"A pass of {name_of(lanes[1])} took {length * slow / fast:.2f} times as long as a plain one and gave "
        f"{length:.2f} times as many tokens: {length:.2f} / {length * slow / fast:.2f} = {fast / slow:.2f}."
    )
    style = FATES["accepted" if fast > slow else "correction"][1]
    sentences = [Text(sentence) for sentence in (explanation, reason) if sentence]
    return Panel(Group(table, "", *sentences), title="verdict", border_style=style)
