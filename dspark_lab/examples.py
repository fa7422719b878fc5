"""What the notebooks share: the prompts they ask, the one round that 00 to 07 follow, and recorded races."""

import json
from pathlib import Path

from dspark_lab.generate import encode_prompt, stream

FOLLOWED = "Tom has 3 pens. Tom buys 4 more at the market. How many pens does Tom have now?"
PROMPTS = {  # domain -> prompts; none of them is in the lab pair's training text
    "math": [
        "Jane has 53 knives. Jane sells 3 of them. Then Jane finds 2 more. How many knives does Jane have in the end?",
        "Nina has 4 boxes with 8 hats in each. Lucy gives Nina 3 more. How many hats does Nina have now?",
        "Hugo sets out 9 rows of 6 shirts. Ella gives Hugo 2 more. How many shirts does Hugo have in the end?",
        "Paul has 25 cups at home and 11 at the farm. Then Paul loses 4 of them. How many cups does Paul have now?",
        "Tom makes 4 knives a day for 3 days. Tom sells all he has for 3 dollars each. How many dollars does Tom get?",
        "Jack has 34 lamps. Jack sells 4 of them. Jack shares the lamps equally among 5 friends. "
        "How many lamps does each friend get?",
        "Kate has 5 boxes with 5 lamps in each. Later Kate loses 2 of them. How many lamps does Kate have now?",
        "Ivan has 20 hats. Ivan gives 4 of them to Omar. Omar has 9 more hats than Ivan has now. "
        "How many hats does Omar have?",
    ],
    "code": [
        "Write the Python function `read_lines(path)`. Return the lines of a text file as a list.",
        "Write the Python function `fibonacci(n)`. Return the first n Fibonacci numbers.",
        "Write the Python function `escape(text)`. Replace the characters that mean something in HTML.",
        "Write the Python function `median(values)`. Return the middle value of the sorted data.",
        "Write the Python function `pop(self)`. Remove the last element and return it, or raise IndexError.",
        "Write the Python function `rotate(items, steps)`. Move the first items to the end of the list.",
        "Write the Python function `reset(self)`. Clear the buffer and start again.",
        "Write the Python function `test_empty(self)`. Test that an empty list gives an empty result.",
    ],
    "prose": [
        "Continue this passage: The old harpooner sat down upon the cask and filled his pipe. He had seen four oceans, "
        "he said, and trusted none of them.",
        "Continue this passage: My fellow citizens, the year behind us has been one of labour and of peace.",
        "Continue this passage: We were nine days out when the wind left us. The sails hung like washing.",
        "Continue this passage: There was a lamp in the upper window, and it burned all night.",
        "Continue this passage: The whale rose a quarter of a mile to leeward. For a moment nobody moved.",
        "Continue this passage: The roads of the western counties are in poor repair.",
        "Continue this passage: It is the duty of this government to deal justly with every nation.",
        "Continue this passage: Nothing could be seen of the island but a grey line.",
    ],
}
RACE_PROMPTS = {  # by domain; the passage is one of few on which the greedy lab target does not soon repeat itself
    "prose": "Continue this passage: Peace has been kept upon our borders. The treaties made last spring are observed, "
    "and commerce with our neighbours grows.",
    "code": PROMPTS["code"][0],
    "math": FOLLOWED,
}
RACE_TOKENS = 64
RACES = Path(__file__).parent / "traces" / "races"


def recorded_races():
    """The races that ship with the package, domain -> a dict that `race.replay` plays; `bench.races` records them."""
    return {domain: json.loads((RACES / f"{domain}.json").read_text()) for domain in RACE_PROMPTS}


def followed_round(pair, mode="dspark"):
    """The first round of a greedy answer to FOLLOWED in which a drafted token is rejected, the whole block verified.

    Returns ``(text, round)``: ``text`` is the token ids up to the round's anchor, itself included, prompt first; the
    Round has p and q whole. Raises ValueError where the target rejects nothing.
    """
    text = encode_prompt(pair, FOLLOWED)
    for r in stream(pair, text, mode, keep_probs=True):
        if r.ending == "correction":
            return text, r
        text = text + r.committed
    raise ValueError(f"no draft of mode {mode} is rejected in the answer to FOLLOWED; give another pair or mode")
