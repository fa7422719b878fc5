"""Held-out prompts for the benchmarks. None of the text is in the package: a training folder has it, or it is rebuilt.

``dspark-lab train lab --out DIR`` leaves the corpus, cut into chats and encoded, in DIR/work/chats.npz, with the tenth
that it held out by document. Without such a folder the same chats are gathered again, encoded with the lab pair's own
tokenizer and kept in a cache folder: maths is generated, code is the running Python's library, prose is fetched.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from dspark_lab.folders import cache_folder
from dspark_lab.pair import WEIGHTS

DOMAINS = ("prose", "code", "math")  # in the order of the training's domain numbers


def heldout_prompts(domain, count, folder=None):
    """At most ``count`` held-out prompts of ``domain``, lists of token ids that end where the answer begins.

    ``folder``: what ``dspark-lab train lab`` wrote, or None for the cache. They are spread evenly over the chats, which
    lie document by document; the same arguments give the same prompts.
    """
    return [ids[:prompt_length].tolist() for ids, prompt_length, _ in heldout_chats(domain, count, folder)]


def heldout_chats(domain, count, folder=None):
    """The chats that ``heldout_prompts`` are of: (token ids, prompt length, bytes of the answer) each.

    Raises ValueError for an unknown domain or one without held-out chats, FileNotFoundError for another folder.
    """
    if domain not in DOMAINS:
        raise ValueError(f"there is no domain {domain!r}; give some of {', '.join(DOMAINS)}")
    path = Path(cache_folder() if folder is None else folder, "work", "chats.npz")
    if folder is None and not path.is_file():
        rebuild(path)
    data = load(path)
    rows = np.flatnonzero(data["heldout"] & (data["domains"] == DOMAINS.index(domain)))
    if not len(rows):
        raise ValueError(f"{path} holds out nothing of {domain}; leave that domain out, or give another folder")
    spread = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [
        (
            data["tokens"][data["offsets"][row] : data["offsets"][row + 1]],
            int(data["prompt_lengths"][row]),
            int(data["response_bytes"][row]),
        )
        for row in rows[spread]
    ]


@lru_cache(maxsize=1)
def load(path):
    """The arrays of a chats.npz. Raises FileNotFoundError that says how to make one."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; give a folder that `dspark-lab train lab` wrote, or none to gather the text"
        )
    return dict(np.load(path))


def rebuild(path):
    """Gather the lab pair's corpus as its training did, and save the held-out chats alone to ``path``."""
    from dspark_lab.train import corpus, tokenizer
    from dspark_lab.train.lab import LAB

    sources = path.parent / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    documents = corpus.documents(sources, seed=LAB.seed)
    chats = corpus.chats(documents, sources, train_problems=0, seed=LAB.seed)
    bpe = tokenizer.load_tokenizer(WEIGHTS / "base")
    np.savez(path, **tokenizer.encode_chats([chat for chat in chats if chat.heldout], bpe, LAB.chat_length))
