"""Word problems with worked steps: the lab pair's maths, generated rather than fetched.

The story fixes the numbers; the answer is then told in one of many ways (order of independent steps, wording,
layout, a check at the end), so that even a perfect model of these answers is left with some uncertainty:
`Worked.bits` counts it. Held-out templates are sequences of story parts that are never trained on (`stories.py`).
"""

import random
import re
from collections import Counter
from dataclasses import dataclass
from math import log2

from . import stories, templates

WORDS = {
    kind: words.split()
    for kind, words in {
        "item": "pens books cups lamps chairs shirts hats bags maps plates bowls clocks knives candles",
        "small": "marbles apples stamps coins shells cards nuts pears beads stickers buttons plums stones cookies",
        "food": "rolls cakes buns pies muffins tarts",
        "place": "shop market school library station museum farm harbour",
        "town": "Ashford Milton Brookfield Riverside Lakewood Easton Norwood Weston",
        "vehicle": "train bus car truck boat van tram",
        "gadget": "camera radio bicycle table phone printer guitar",
        "room": "garden kitchen hall yard field room terrace",
        "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "man": "Tom Ben Paul Omar Luis Jack Ivan Hugo Sam Max Leo Adam",
        "woman": "Anna Mia Sara Lucy Nina Ella Rosa Jane Kate Emma Olga Lena",
    }.items()
}

# How an equation is written, chosen once an answer: the signs of + - * /, and the word or sign before the result.
SIGNS = [
    (("+", "-", "*", "/"), "="),
    (("+", "-", "x", "/"), "="),
    (("plus", "minus", "times", "divided by"), "is"),
]
# How a step joins its equation and what it says, chosen once an answer.
JOINS = ["{eq}, so {says}.", "{eq}. This means that {says}.", "{since} {eq}, {says}.", "{eq}. So {says}."]
OPENERS = ["", "", "Let us go step by step. ", "We work it out. ", "We know this: {story} ", "{story} "]
CONNECTIVES = {
    "first": ["", "", "First, "],
    "middle": ["", "Then ", "Next, "],
    "last": ["", "Then ", "Now ", "Finally, "],
}
FINALS = ["The answer is {result}.", "Answer: {result}.", "So the answer is {result}.", "In the end, {says}."]
REQUESTS = ["", "", "", " Show your steps.", " Explain how you get the answer."]


@dataclass(frozen=True)
class Step:
    """One equation `name = left operator right` and the clause that states what it means."""

    name: str
    left: str
    operator: str
    right: str
    says: str


@dataclass(frozen=True)
class Template:
    """A story with a question, its numbers as (name, how to draw it) pairs, and the steps that answer it."""

    name: str
    numbers: tuple
    story: str
    question: str
    steps: tuple
    heldout: bool


@dataclass(frozen=True)
class Worked:
    """A problem and its worked answer; `bits` is the entropy of the choices made in telling the answer."""

    template: str
    problem: str
    answer: str
    result: int
    heldout: bool
    bits: float


def _parse(block, heldout):
    """Read one block of `templates.py`."""
    head, story, question, *lines = [line.strip() for line in block.strip().splitlines()]
    name, numbers = head.split(":")
    steps = (re.fullmatch(r"(\w+) = (\w+) (\S+) (\w+) : (.+)", line).groups() for line in lines)
    return Template(
        name,
        tuple(tuple(number.split("=")) for number in numbers.split()),
        story,
        question,
        tuple(Step(*step) for step in steps),
        heldout,
    )


WRITTEN = templates.BLOCKS.strip().split("\n\n")
COMPOSED, HELD_OUT = stories.composed()
TEMPLATES = [
    _parse(block, heldout) for blocks, heldout in ((WRITTEN + COMPOSED, False), (HELD_OUT, True)) for block in blocks
]


class _Teller:
    """Makes the random choices of one text and adds up their entropy in `bits`."""

    def __init__(self, rng):
        self.rng, self.bits = rng, 0.0

    def choose(self, options):
        """Draw one option; an option listed twice is twice as likely."""
        counts = Counter(options).values()
        self.bits -= sum(n / len(options) * log2(n / len(options)) for n in counts)
        return self.rng.choice(options)

    def settle(self, text):
        """Settle each `(one wording|another)` in `text`."""
        return re.sub(r"\(([^()]*\|[^()]*)\)", lambda match: self.choose(match[1].split("|")), text)


def calculate(expression, values):
    """Evaluate `a*b+c` from left to right, without precedence; names are looked up in `values`."""
    first, *rest = re.findall(r"\w+|//|[-+*/]", expression)
    result = int(values.get(first, first))
    for operator, name in zip(rest[::2], rest[1::2], strict=True):
        operand = int(values.get(name, name))
        if operator == "/" and result % operand:
            raise ValueError(f"{expression} leaves a remainder with {values}; draw numbers that divide exactly.")
        result = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}.get(operator, int.__floordiv__)(result, operand)
    return result


def draw_numbers(template, rng):
    """Draw the template's numbers and work out its steps. Returns a dict from name to integer."""
    values = {}
    for name, source in template.numbers:
        if span := re.fullmatch(r"(\d+)-(\d+)", source):
            values[name] = rng.randint(int(span[1]), int(span[2]))
        elif re.fullmatch(r"\d+(,\d+)*", source):
            values[name] = int(rng.choice(source.split(",")))
        else:
            values[name] = calculate(source, values)
    for step in template.steps:
        values[step.name] = calculate(f"{step.left}{step.operator}{step.right}", values)
    return values


def draw_words(rng):
    """Draw one word of each kind and two people. Returns a dict from slot to word."""
    words = {kind: rng.choice(choices) for kind, choices in WORDS.items()}
    words["item"], words["other"] = rng.sample(WORDS["item"], 2)
    words["A"], words["B"] = rng.sample(WORDS["man"] + WORDS["woman"], 2)
    words["he"], words["his"] = ("he", "his") if words["A"] in WORDS["man"] else ("she", "her")
    return words


def _equation(step, values, style):
    """Write a step's equation in one of the `SIGNS`, for example `3 * 4 = 12`."""
    signs, equals = style
    left, right = (values.get(side, side) for side in (step.left, step.right))
    sign = dict(zip("+-*/", signs, strict=True))[step.operator[0]]
    remainder = f" remainder {left % right}" if step.operator == "//" else ""
    return f"{left} {sign} {right} {equals} {values[step.name]}{remainder}"


def _check(step):
    """The step that undoes `step`: from its result back to its left side."""
    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[step.operator]
    return Step(step.left, step.name, inverse, step.right, "")


def _tell_steps(template, slots, tell):
    """Word the steps, one sentence or two each. Returns the sentences and the last step's clause."""
    steps, style, join, sentences = list(template.steps), tell.choose(SIGNS), tell.choose(JOINS), []
    independent = len(steps) > 2 and steps[0].name not in (steps[1].left, steps[1].right)
    if independent and tell.choose([False, True]):
        steps[:2] = steps[1::-1]
    for index, step in enumerate(steps):
        place = "first" if index == 0 else "last" if index == len(steps) - 1 else "middle"
        connective = tell.choose(CONNECTIVES[place]) if len(steps) > 1 else ""
        says = tell.settle(step.says).format(**slots)
        told = join.format(eq=_equation(step, slots, style), since="since" if connective else "Since", says=says)
        sentences.append(connective + told)
    if tell.choose([False, False, True]):
        sentences.append(f"Check: {_equation(_check(steps[-1]), slots, style)}.")
    return sentences, says


def work(template, rng):
    """Draw one problem from `template` and tell its answer. Returns a `Worked`."""
    slots = draw_words(rng) | draw_numbers(template, rng)
    asked = _Teller(rng)
    story, question = (asked.settle(part).format(**slots) for part in (template.story, template.question))
    tell = _Teller(rng)
    opener = tell.choose(OPENERS).format(story=story)
    sentences, says = _tell_steps(template, slots, tell)
    result = slots[template.steps[-1].name]
    sentences.append(tell.choose(FINALS).format(result=result, says=says))
    answer = opener + tell.choose([" ", "\n"]).join(sentences)
    problem = f"{story} {question}{asked.choose(REQUESTS)}"
    return Worked(template.name, problem, answer, result, template.heldout, tell.bits)


def problems(count, seed, heldout=False):
    """Generate `count` problems (a list of `Worked`) from the train or from the held-out templates.

    Written and composed templates take turns in the train split, each set in an order of its own.
    """
    rng = random.Random(f"problems {seed} {heldout}")
    written, composed = TEMPLATES[: len(WRITTEN)], [t for t in TEMPLATES[len(WRITTEN) :] if t.heldout == heldout]
    sets = [rng.sample(chosen, len(chosen)) for chosen in ([composed] if heldout else [written, composed])]
    turns = [(sets[index % len(sets)], index // len(sets)) for index in range(count)]
    return [work(chosen[turn % len(chosen)], rng) for chosen, turn in turns]
