"""Further word problems, composed: an opening, one or two events, and a question, in every order that makes sense.

Each part brings a sentence, the numbers it needs and the step that it asks for; a template is one sequence of parts. A
tenth of the sequences is held out: their parts are known from other sequences, the sequences themselves are never
trained on. A model that has learned the steps, rather than the stories, can answer them.
"""

import hashlib
from itertools import permutations

# name: (numbers, sentence, step); {r} is the running count, {n} the one that a step makes of it.
OPENINGS = {
    "have": ("s=20-60", "{A} has {s} {item}.", None),
    "boxes": ("a=3-9 b=4-9", "{A} has {a} boxes with {b} {item} in each.", "a * b"),
    "rows": ("a=3-9 b=4-9", "{A} (sets|lays) out {a} rows of {b} {item}.", "a * b"),
    "two": ("a=8-30 b=8-30", "{A} has {a} {item} at home and {b} at the {place}.", "a + b"),
    "days": ("a=4-9 b=3-7", "{A} makes {a} {item} a day for {b} days.", "a * b"),
}
EVENTS = {
    "find": ("+", "(Then|Later) {A} finds [k] more."),
    "buy": ("+", "{A} buys [k] more at the {place}."),
    "gift": ("+", "{B} gives {A} [k] more."),
    "give": ("-", "{A} gives [k] of them to {B}."),
    "lose": ("-", "(Then|Later) {A} loses [k] of them."),
    "sell": ("-", "{A} sells [k] of them."),
}
ENDINGS = {
    "ask": ("", "How many {item} does {A} have (now|in the end)?", None),
    "price": ("p=2-5", "{A} sells all {he} has for {p} dollars each. How (much money|many dollars) does {A} get?",
              "* p : {A} gets {w} dollars"),
    "share": ("p=2-6", "{A} shares the {item} equally among {p} friends. How many {item} does each friend get?",
              "/ p : each friend gets {w} {item}"),
    "compare": ("p=2-9", "{B} has {p} more {item} than {A} has now. How many {item} does {B} have?",
                "+ p : {B} has {w} {item}"),
}  # fmt: skip


def composed():
    """Every sequence of parts as a block in the format of `templates.py`. Returns (train, held-out) lists."""
    split = {False: [], True: []}
    for opening in OPENINGS:
        for events in [*permutations(EVENTS, 1), *permutations(EVENTS, 2)]:
            for ending in ENDINGS:
                if ending == "share" and opening != "have":
                    continue  # only a free starting number can be made to divide evenly
                name = "-".join((opening, *events, ending))
                heldout = hashlib.sha256(name.encode()).digest()[0] * 10 < 256
                split[heldout].append(block(name, opening, events, ending))
    return split[False], split[True]


def block(name, opening, events, ending):
    """The block of one sequence: its numbers, story, question and steps."""
    numbers, story, first = OPENINGS[opening]
    last_numbers, last, closing = ENDINGS[ending]
    running, steps = "s", []
    if first:
        steps.append(f"t0 = {first} : {{A}} has {{t0}} {{item}}")
        running = "t0"
    drawn, undone = [], ""
    for i, event in enumerate(events, start=1):
        sign, sentence = EVENTS[event]
        drawn.append(f"k{i}=2-5")
        undone += f"{'-' if sign == '+' else '+'}k{i}"
        story += " " + sentence.replace("[k]", f"{{k{i}}}")
        steps.append(f"t{i} = {running} {sign} k{i} : {{A}} now has {{t{i}}} {{item}}")
        running = f"t{i}"
    if ending == "share":  # worked out backwards: what each friend gets first
        numbers, drawn = "q=6-12", [last_numbers, *drawn, f"s=q*p{undone}"]
    else:
        drawn.append(last_numbers)
    if closing:
        steps.append(f"w = {running} {closing}")
    told, _, question = last.rpartition(". ")
    story += f" {told}." if told else ""
    return "\n".join([f"{name}: {' '.join([numbers, *drawn])}", story, question, *steps])
