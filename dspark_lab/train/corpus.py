"""The lab pair's text: prose, Python code and word problems, as documents and as chats.

None of it is part of the package. Code is the running Python's own standard library, maths is generated, and
prose is fetched with the ordinary clients: Moby Dick and the State of the Union addresses (public domain, npm)
and short chats (`chatterbot-corpus`, BSD, PyPI). A tenth of the documents is held out, by a hash of their name.
"""

import ast
import hashlib
import random
import re
from dataclasses import dataclass
from itertools import pairwise

from .problems import problems
from .sources import chatterbot, docstrings, folder_texts, library_modules, npm_prose, parse

DOMAINS = ("prose", "code", "math")


@dataclass(frozen=True)
class Document:
    """A plain text for pretraining; `domain` is one of `DOMAINS`."""

    domain: str
    name: str
    text: str
    heldout: bool


@dataclass(frozen=True)
class Chat:
    """A prompt with its response; `name` is the document it was cut from and `source` the collection."""

    domain: str
    source: str
    name: str
    prompt: str
    response: str
    heldout: bool


def is_heldout(name):
    """Whether the document of this name is in the held-out tenth: a hash of the name decides, never the order."""
    return hashlib.sha256(name.encode()).digest()[0] * 10 < 256


def documents(cache, text_dir=None, tiny=False, seed=0):
    """Collect the documents of the three domains, each distinct, the train documents first.

    `cache` is the folder that fetched packages are kept in. `text_dir`, a reader's own folder (`*.txt` and `*.md`
    prose, `*.py` more code), stands in for the fetched prose. `tiny` fetches nothing: a slice of the library's
    modules, with their docstrings as prose. Code is capped at twice the prose, and problems come to about a quarter of
    all tokens. Raises `ValueError` where a package cannot be fetched or a domain has no text for a split.
    """
    code = list(library_modules(tiny))
    if text_dir is not None:
        prose, own = folder_texts(text_dir)
        code += own
    elif tiny:
        prose = [(name, docstrings(text)) for name, text in code]  # named alike, so held out together
    else:
        prose = npm_prose(cache)
    prose = _distinct("prose", prose)
    code = _cap(_distinct("code", code), 2 * _size(prose), seed)
    for domain, docs in (("prose", prose), ("code", code)):
        if len({doc.heldout for doc in docs}) < 2:
            raise ValueError(
                f"{len(docs)} documents of {domain} do not make two splits; give at least 50,000 characters."
            )
    return prose + code + math_documents((_size(prose) + _size(code)) // 4, seed)


def chats(docs, cache=None, train_problems=20_000, heldout_problems=500, seed=0):
    """Cut chats from `docs`, which `documents` returned, and add generated ones. Returns a list of `Chat`.

    With a `cache`, the fetched chats join them; leave it out where nothing may be fetched.
    """
    rng = random.Random(f"chats {seed}")
    cut = [chat for doc in docs if doc.domain == "prose" for chat in continuations(doc, rng)]
    cut += distinct_functions(chat for doc in docs if doc.domain == "code" for chat in functions(doc, rng))
    for name, prompt, response in chatterbot(cache) if cache is not None else []:
        cut.append(Chat("prose", "chatterbot", name, prompt, response, is_heldout(name)))
    for heldout, count in ((False, train_problems), (True, heldout_problems)):
        for problem in problems(count, f"chats {seed}", heldout):
            name = "problems/" + problem.template
            cut.append(Chat("math", "problems", name, problem.problem, problem.answer, heldout))
    return cut


def math_documents(size, seed):
    """Generate about `size` characters of train problems and a ninth as many held-out ones, one document each."""
    docs = []
    for heldout, budget in ((False, size), (True, size // 9)):
        while budget > 0:
            for problem in problems(100, f"documents {seed} {len(docs)}", heldout):
                text = f"{problem.problem}\n{problem.answer}"
                docs.append(Document("math", f"problems/{problem.template}/{len(docs)}", text, heldout))
                budget -= len(text)
    return docs


def _size(docs):
    """Characters in the train documents."""
    return sum(len(doc.text) for doc in docs if not doc.heldout)


def _distinct(domain, texts):
    """Make documents of (name, text) pairs, train ones first, so that a text in both splits stays in train alone."""
    seen, docs = set(), []
    for name, text in sorted(texts, key=lambda pair: is_heldout(pair[0])):
        key = hashlib.sha256(re.sub(r"\W+", "", text).encode()).digest()
        if len(text) > 200 and key not in seen:
            seen.add(key)
            docs.append(Document(domain, name, text, is_heldout(name)))
    return docs


def _cap(docs, size, seed):
    """Keep at most `size` characters of train documents: the library itself before its tests, then at random."""
    rank = {doc.name: ("/test/" in doc.name, hashlib.sha256(f"{seed}{doc.name}".encode()).digest()) for doc in docs}
    kept, left = [], size
    for doc in sorted(docs, key=lambda doc: rank[doc.name]):
        if doc.heldout or len(doc.text) <= left:
            kept.append(doc)
            left -= 0 if doc.heldout else len(doc.text)
    return sorted(kept, key=lambda doc: (doc.heldout, doc.name))


# --- Chats ---------------------------------------------------------------------------------------------------

CONTINUE = (
    "Continue this passage: {}",
    "Continue the following text.\n\n{}",
    "What comes next?\n\n{}",
    "Here is a passage. Write what follows.\n\n{}",
    "{}\n\nPlease continue.",
)
WRITE = (
    "Write the Python {kind} `{head}`{owner}.",
    "Write a Python {kind} `{head}`{owner}.",
    "Implement the {kind} `{head}`{owner} in Python.",
)
PURPOSE = ("{} {}", "{}\n\n{}", "{} Its docstring begins: {}")
PASSAGE_WORDS = (30, 80)
RESPONSE_WORDS = (60, 130)
FUNCTION_CHARACTERS = (120, 660)  # about 40 to 220 tokens


def sentences(text):
    """Cut a text into sentences: after a full stop or its like, but not after a title or an initial."""
    ends = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])[.!?][\"')]*\s+(?=[\"'(A-Z])")
    cuts = [0, *(match.end() for match in ends.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if end > start]


def continuations(doc, rng):
    """Slide over a prose document: each response follows its passage, and no two responses overlap."""
    parts = sentences(doc.text)
    lengths = [len(part.split()) for part in parts]
    chats, start = [], 0
    while start < len(parts):
        first = last = start
        needed = rng.randint(PASSAGE_WORDS[0], PASSAGE_WORDS[1] - 20)
        while first > 0 and sum(lengths[first:start]) < needed:
            first -= 1
        wanted = rng.randint(RESPONSE_WORDS[0], RESPONSE_WORDS[1] - 20)
        while last < len(parts) and sum(lengths[start:last]) < wanted:
            last += 1
        fits = all(
            low <= sum(lengths[begin:end]) <= high
            for (low, high), begin, end in ((PASSAGE_WORDS, first, start), (RESPONSE_WORDS, start, last))
        )
        passage, response = "".join(parts[first:start]).strip(), "".join(parts[start:last]).strip()
        if fits and _mostly_words(response):
            prompt = rng.choice(CONTINUE).format(passage)
            chats.append(Chat("prose", doc.name.split("/")[0], doc.name, prompt, response, doc.heldout))
        start = last if fits else start + 1
    return chats


def _mostly_words(text):
    """Whether at least nine characters in ten are letters or spaces: tables and lists of sums are not."""
    return sum(letter.isalpha() or letter.isspace() for letter in text) >= 0.9 * len(text)


def functions(doc, rng):
    """Ask for each function and method of a module that is neither short nor long. Returns a list of `Chat`."""
    tree, lines = parse(doc.text), doc.text.split("\n")
    owners = {child: node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    chats = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        response = _dedent(lines[start : node.end_lineno])
        if FUNCTION_CHARACTERS[0] <= len(response) <= FUNCTION_CHARACTERS[1]:
            prompt = _ask_for(node, owners.get(node), rng)
            chats.append(Chat("code", "stdlib", doc.name, prompt, response, doc.heldout))
    return chats


def _dedent(lines):
    """Move lines to the left by the first one's indentation; lines of a string that start further left stay."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] if not line[:margin].strip() else line for line in lines).rstrip()


def _ask_for(node, owner, rng):
    """Ask for a function by its name and arguments, its class, and its docstring's first sentence if it has one."""
    kind = "method" if owner else "function"
    head = f"{node.name}({ast.unparse(node.args)})"
    prompt = rng.choice(WRITE).format(kind=kind, head=head, owner=f" of the class `{owner}`" if owner else "")
    summary = re.split(r"\n\s*\n|(?<=[.!?])\s", ast.get_docstring(node) or "")[0]
    return rng.choice(PURPOSE).format(prompt, " ".join(summary.split())) if summary else prompt


def distinct_functions(chats):
    """Drop functions that differ from an earlier one in name and constants alone, or that cannot stand alone."""
    seen, kept = set(), []
    for chat in chats:
        shape = _shape(chat.response)
        if shape is not None and shape not in seen:
            seen.add(shape)
            kept.append(chat)
    return kept


def _shape(source):
    """A hash of a function's syntax tree without its name, docstring and constants; None if it does not parse."""
    try:
        function = parse(source).body[0]
    except SyntaxError:
        return None
    function.name = ""
    for node in ast.walk(function):
        if isinstance(node, ast.Constant):
            node.value = 0
    return hashlib.sha256(ast.dump(function).encode()).digest()
