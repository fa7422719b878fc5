"""Kept caches on disk: one safetensors file a text, named by the SHA-256 of its own bytes.

So a file that was damaged, cut short or put together by a crash does not answer to its name, and is thrown away before
anything of its numbers is read. A file appears under its name only when it is whole.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

log = logging.getLogger(__name__)
FORMAT = "1"
UNFINISHED = "unfinished-"
HEX = "[0-9a-f]"


class Shelf:
    """The files of one pair: those of its weights, library versions and kind of device, in a folder of their own.

    ``folder``: may be shared by several pairs; all of their files count towards ``max_bytes``.
    """

    def __init__(self, folder, pair, max_bytes):
        self.root, self.max_bytes = Path(folder).expanduser(), max_bytes
        self.folder = self.root / identity(pair)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self):
        """What lies on the shelf, as fields of Kept, the least recently used first; what cannot be read is removed."""
        for leftover in self.folder.glob(f"{UNFINISHED}*"):
            remove(leftover)
        found = [(file, header(file)) for file in sorted(self.folder.glob("*.safetensors"), key=last_use)]
        for file, fields in found:
            if fields is None:
                log.warning("the kept prefix %s is damaged and was removed", file)
                remove(file)
        return [{**fields, "file": file} for file, fields in found if fields]

    def write(self, kept):
        """Write a Kept to a file, and return its path; None, with a warning, where that fails (a full disk)."""
        skeleton, arrays = pack(kept.caches)
        fields = {name: getattr(kept, name) for name in ("mode", "tokens", "trimmable", "nbytes", "seal")}
        unfinished = self.folder / f"{UNFINISHED}{os.getpid()}.safetensors"
        try:
            mx.save_safetensors(str(unfinished), arrays, labelled(json.dumps(fields), json.dumps(skeleton)))
            file = self.folder / f"{digest(unfinished)}.safetensors"
            os.replace(unfinished, file)
        except (OSError, RuntimeError) as error:
            remove(unfinished)
            log.warning("a prefix could not be kept on disk: %s", error)
            return None
        return file

    def read(self, file, blank):
        """The caches in ``file``, put into the empty caches ``blank``; None, and no file, if it is not what it was."""
        try:
            if digest(file) != file.stem:
                raise ValueError("its contents are not those that it was named for")
            arrays, fields = mx.load(str(file), return_metadata=True)
            mx.eval(arrays)
            os.utime(file)
            return restore(blank, unpack(json.loads(fields["skeleton"]), arrays))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            log.warning("the kept prefix %s is damaged and was removed: %s", file, error)
            remove(file)
            return None

    def make_room(self):
        """Remove the least recently used files until all together are within the limit; returns those removed.

        Whatever else lies in the reader's folder, models for example, is neither counted nor touched.
        """
        names = (HEX * 64, f"{UNFINISHED}*")
        files = [file for name in names for file in self.root.glob(f"{HEX * 32}/{name}.safetensors")]
        files.sort(key=last_use)
        sizes = {file: size(file) for file in files}
        excess, gone = sum(sizes.values()) - self.max_bytes, set()
        for file in files:
            if excess > 0:
                remove(file)
                gone.add(file)
                excess -= sizes[file]
        return gone


def identity(pair):
    """The start of a SHA-256 of all that ``pair``'s caches depend on: weights, shapes, versions, kind of device."""
    versions = [version(package) for package in ("mlx", "mlx-lm")]
    hashed = hashlib.sha256(repr([FORMAT, versions, str(mx.default_device())]).encode())
    model = pair.target.model
    add_weights(hashed, model, getattr(model, "args", getattr(model, "config", None)))
    for mode, drafter in sorted(pair.drafters.items()):
        hashed.update(mode.encode())
        if hasattr(drafter, "parameters"):
            add_weights(hashed, drafter, drafter.config)
    return hashed.hexdigest()[:32]


def add_weights(hashed, model, config):
    """Add the configuration and every parameter of an MLX module to a hash."""
    hashed.update(repr(config).encode())
    for name, array in sorted(tree_flatten(model.parameters())):
        hashed.update(f"{name} {array.shape} {array.dtype}".encode())
        hashed.update(memoryview(array.reshape(-1).view(mx.uint8)))


def labelled(kept, skeleton):
    """A header: two pieces of JSON, and the first one's own SHA-256, so that it can be read without the whole file."""
    return {"kept": kept, "digest": hashlib.sha256(kept.encode()).hexdigest(), "skeleton": skeleton}


def header(file):
    """The fields of a Kept in ``file``'s header, or None if it is not as it was written."""
    try:
        with safe_open(file, "numpy") as opened:
            fields = opened.metadata()
            intact = labelled(fields["kept"], fields["skeleton"]) == fields
            return json.loads(fields["kept"]) if intact else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def digest(file):
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def remove(file):
    """Remove ``file``, if it is there and is one."""
    with suppress(OSError):
        file.unlink()


def last_use(file):
    """When ``file`` was last read or written (0 if it is gone): its modification time, which ``read`` moves on."""
    return file.stat().st_mtime_ns if file.exists() else 0


def size(file):
    """Bytes of ``file``; 0 if it is gone."""
    return file.stat().st_size if file.exists() else 0


def pack(caches):
    """``caches`` as plain lists in which every array is replaced by {"array": name}, and the arrays by name."""
    arrays = {}

    def walk(part):
        if hasattr(part, "state"):
            return walk(part.state)
        if isinstance(part, mx.array):
            arrays[str(len(arrays))] = part
            return {"array": str(len(arrays) - 1)}
        return [walk(each) for each in part] if isinstance(part, list | tuple) else part

    return walk(caches), arrays


def unpack(skeleton, arrays):
    """The inverse of ``pack``, as plain lists."""
    if isinstance(skeleton, dict):
        return arrays[skeleton["array"]]
    return [unpack(part, arrays) for part in skeleton] if isinstance(skeleton, list) else skeleton


def restore(blank, state):
    """The caches ``blank`` with ``state``, what ``unpack`` returned, put into them; plain data is its own state."""
    if hasattr(blank, "state"):
        blank.state = state
        return blank
    return (
        [restore(*each) for each in zip(blank, state, strict=True)]
        if isinstance(blank, tuple | list) and blank
        else state
    )
