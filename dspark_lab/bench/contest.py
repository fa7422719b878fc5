"""A contest of implementations, each in a process of its own, in turns on the same prompts.

Processes, because some replace methods of MLX's own classes, which would slow down or change the others. While one
decodes the others wait, so that all have the machine to themselves.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from dspark_lab import blas
from dspark_lab.bench.peers import AUTO, MLX_DSPARK, MLX_LM, OURS, PLAIN, STATIC
from dspark_lab.bench.speed import choose, clock, differences, in_turns, rate, speed_ratio

PLAIN_BAR, AUTO_BAR = 1.0, 1.1  # over mlx-lm, and over mlx-dspark at its best cap


class Unusable(Exception):
    """Why an implementation cannot decode as asked. ``entry``: the Entry that was asked, once it is known."""

    entry = None


class Player:
    """The process of one implementation. ``opener``: see peers.py; ``places``: what it is given."""

    def __init__(self, opener, places):
        spawn = get_context("spawn")  # a fork would inherit MLX's threads, and not survive it
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, opener, places), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *question):
        """Tokens and seconds a token of one run; raises Unusable with the implementation's own words."""
        try:
            self.connection.send(question)
            tokens, seconds, reason = self.connection.recv()
        except (EOFError, OSError):
            raise Unusable("its process died") from None
        if reason:
            raise Unusable(reason)
        return tokens, seconds

    def close(self):
        """End the process."""
        self.connection.close()  # which it hears of
        self.process.join()


def serve(connection, opener, places):
    """A player's process: open the implementation, then answer questions (threads, prompt, max_tokens, setting)."""
    run, failed = None, None
    try:
        run = opener(**places)
    except Exception as error:  # an implementation may fail in any way; all are its reason for not taking part
        failed = in_words(error)
    while True:
        try:
            threads, prompt, max_tokens, setting = connection.recv()
        except EOFError:
            return
        if failed:
            connection.send((None, None, failed))
            continue
        blas.set_threads(threads)
        try:
            connection.send((*clock(run(prompt, max_tokens, **setting)), None))
        except Exception as error:
            connection.send((None, None, in_words(error)))


def in_words(error):
    """An exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@dataclass(frozen=True)
class Entry:
    """A Side of speed.py that decodes in another process."""

    player: Player
    setting: dict
    threads: int
    max_tokens: int

    def timed(self, prompt, seed):
        """Tokens, and seconds a token after the first arrival; ``seed`` is of no use, for all are greedy."""
        try:
            return self.player.ask(self.threads, prompt, self.max_tokens, self.setting)
        except Unusable as error:
            error.entry = self
            raise


@contextmanager
def players(rows, places):
    """Opener -> its Player, for all that ``rows`` (see peers.py) name; they end with the context."""
    found = {}
    try:
        for opener, _ in rows.values():
            found[opener] = found.get(opener) or Player(opener, places)
        yield found
    finally:
        for player in found.values():
            player.close()


def contest(pair, entries, trial_prompts, prompts, max_tokens, advance=lambda: None):
    """All ``entries`` (row -> Entries, of which the best on ``trial_prompts`` is measured on ``prompts``): a cell.

    ``rows``: what each came to, or the reason why it could not take part; ``ratios``: each of our own rows that took
    part over every other row. ``advance()`` hears of every run.
    """
    able, reasons = warm_up(entries, trial_prompts[0], advance)
    while True:
        try:
            best, _ = choose(list(able.values()), trial_prompts, advance)
            tokens, seconds = in_turns(best, prompts, advance)
            break
        except Unusable as error:  # one that could on the first prompt; the others begin again without it
            drop(able, reasons, error)
    texts = {name: [text[:max_tokens] for text in own] for name, own in zip(able, tokens)}  # one of them overruns
    spent = dict(zip(able, seconds))
    found = {
        name: {
            "setting": side.setting,
            "threads": side.threads,
            "tokens_per_second": rate(spent[name]),
            "seconds_per_token": spent[name].tolist(),
            "differences": differences(pair, prompts, texts[PLAIN], texts[name]),
        }
        for name, side in zip(able, best)
    }
    ratios = {
        a: {b: speed_ratio(spent[a], spent[b])["ratio"] for b in able if b != a}
        for a in (PLAIN, AUTO, STATIC)
        if a in able
    }
    return {"rows": {name: found.get(name) or {"reason": reasons[name]} for name in entries}, "ratios": ratios}


def warm_up(entries, prompt, advance):
    """Every Entry once on ``prompt``: those that can, by row, and for rows of which none can the last one's reason."""
    able, reasons = {}, {}
    for name, own in entries.items():
        for entry in own:
            try:
                entry.timed(prompt, 0)
            except Unusable as error:
                reasons[name] = str(error)
            else:
                able.setdefault(name, []).append(entry)
            advance()
    return able, reasons


def drop(able, reasons, error):
    """Take the Entry that failed with ``error`` out of ``able``, and its row with it if no other setting is left.

    A row of our own is never dropped: its error is raised.
    """
    name = next(name for name, own in able.items() if error.entry in own)
    if name.startswith(OURS):
        raise error
    able[name].remove(error.entry)
    if not able[name]:
        del able[name]
        reasons[name] = str(error)


def bars(cells):
    """Whether the bars are met: "plain/<domain>", "auto/<domain>" -> ratio, and who is ahead of us where.

    ``cells``: domain -> what `contest` found. A bar is missed only if the ratio's whole interval lies below it; ahead
    is who decodes more tokens per second than any row of ours, by the medians.
    """
    found = {}
    for domain, cell in cells.items():
        for name, ours, theirs, bar in (("plain", PLAIN, MLX_LM, PLAIN_BAR), ("auto", AUTO, MLX_DSPARK, AUTO_BAR)):
            ratio = cell["ratios"].get(ours, {}).get(theirs)
            found[f"{name}/{domain}"] = ratio and {**ratio, "bar": bar, "met": ratio["high"] >= bar}
        rates = {name: row["tokens_per_second"] or 0 for name, row in cell["rows"].items() if "setting" in row}
        ours = {name: rates.pop(name) for name in list(rates) if name.startswith(OURS)}
        found[f"ahead/{domain}"] = [name for name, rate in rates.items() if rate > max(ours.values())]
    return found
