"""Kept caches on disk: they survive a restart, and whatever is wrong with a file, it is never wrong in the answer."""

import json
import os
import sys

import mlx.core as mx
import pytest
from test_prefix_cache import reused, warm

import dspark_lab as lab
from dspark_lab.prefix_cache import PrefixCache

PROMPT, MORE = list(range(30, 60)), [7, 8, 9]


@pytest.fixture
def shelf(golden, tmp_path):
    """A folder with one text in it, its file, and how many tokens of PROMPT + MORE that text saves."""
    cache = PrefixCache(golden, folder=tmp_path)
    warm(cache, PROMPT, "dspark")
    (file,) = tmp_path.glob("*/*.safetensors")
    return tmp_path, file


@pytest.mark.parametrize("mode", ["baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3"])
def test_restart(golden, tmp_path, mode):
    """Another process finds the text, and goes on from it just as this one would."""
    here = PrefixCache(golden, folder=tmp_path)
    warm(here, PROMPT, mode)
    there = PrefixCache(golden, folder=tmp_path)
    assert len(there) == 1 and there.nbytes == 0
    assert reused(there, PROMPT + MORE, mode) == reused(here, PROMPT + MORE, mode) >= len(PROMPT) - 1


def test_evicted_from_memory_it_is_still_on_disk(golden, tmp_path):
    cache = PrefixCache(golden, max_bytes=0, folder=tmp_path)
    warm(cache, PROMPT, "dspark")
    assert cache.nbytes == 0 and len(cache) == 1
    assert reused(cache, PROMPT + MORE, "dspark") > 0


def flip(file, at):
    """Turn one bit of ``file`` over; ``at`` is a byte, or a share of the file."""
    data = bytearray(file.read_bytes())
    data[int(at * len(data)) if isinstance(at, float) else at] ^= 4
    file.write_bytes(data)


def forge(file, **changes):
    """Change a field of the header's record, and keep everything else as it was."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["kept"] = json.dumps(json.loads(header["__metadata__"]["kept"]) | changes)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


DAMAGE = {
    "cut short": lambda file: os.truncate(file, file.stat().st_size // 2),
    "by a byte": lambda file: os.truncate(file, file.stat().st_size - 1),
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("not safetensors at all"),
    "length": lambda file: flip(file, 0),
    "huge length": lambda file: flip(file, 6),
    "header": lambda file: flip(file, 40),
    "middle": lambda file: flip(file, 0.5),
    "last byte": lambda file: flip(file, -1),
    "tokens": lambda file: forge(file, tokens=[*MORE, *PROMPT]),
    "fields": lambda file: forge(file, colour="red"),
    "renamed": lambda file: file.rename(file.with_name("0" * 64 + ".safetensors")),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("when", ["before", "after"])
def test_damage(golden, shelf, damage, when):
    """Damaged before a start or while it is known: never an error, never another answer; and it is written anew."""
    folder, file = shelf
    if when == "after":
        cache = PrefixCache(golden, folder=folder)
        DAMAGE[damage](file)
    else:
        DAMAGE[damage](file)
        cache = PrefixCache(golden, folder=folder)
    for prompt in (PROMPT + MORE, [*MORE, *PROMPT, *MORE]):
        assert reused(cache, prompt, "dspark") == 0
    assert reused(PrefixCache(golden, folder=folder), PROMPT + MORE, "dspark") > 0


def test_undamaged(golden, shelf):
    """The control: with nothing done to the file the same turn is served from it."""
    assert reused(PrefixCache(golden, folder=shelf[0]), PROMPT + MORE, "dspark") > 0


def test_every_bit_counts(golden, shelf):
    """A bit turned over at each of fifty places from the first byte to the last."""
    folder, file = shelf
    data = file.read_bytes()
    for place in range(50):
        file.write_bytes(data)
        flip(file, place / 50)
        cache = PrefixCache(golden, folder=folder)
        shared, _ = cache.take("dspark", PROMPT + MORE)
        assert shared == 0 and not file.exists()


def test_of_other_weights(golden, shelf, monkeypatch):
    """Changed weights, shapes or versions do not find what the old ones left; the old ones still do."""
    folder, _ = shelf
    norm = golden.target.model.model.norm
    weight, norm.weight = norm.weight, norm.weight * 1.001
    changed = PrefixCache(golden, folder=folder)
    norm.weight = weight
    assert len(changed) == 0
    with monkeypatch.context() as patch:
        patch.setattr(golden.target.model.args, "rope_theta", 5.0)
        assert len(PrefixCache(golden, folder=folder)) == 0
    assert len(PrefixCache(lab.Pair(golden.target, {}, golden.tokenizer), folder=folder)) == 0
    norm = golden.drafter("dspark").norm
    weight, norm.weight = norm.weight, norm.weight * 1.001
    changed = PrefixCache(golden, folder=folder)
    norm.weight = weight
    assert len(changed) == 0
    for library in ("mlx", "mlx-lm"):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["dspark_lab.shelf"], "version", lambda name, n=library: str(name == n))
            assert len(PrefixCache(golden, folder=folder)) == 0
    assert len(PrefixCache(golden, folder=folder)) == 1


def test_unfinished_files_are_swept_up(golden, shelf):
    """What a process that was killed while it wrote has left."""
    folder, file = shelf
    leftover = file.with_name("unfinished-12345.safetensors")
    leftover.write_bytes(file.read_bytes()[:1000])
    assert len(PrefixCache(golden, folder=folder)) == 1
    assert not leftover.exists()


def test_disk_limit(golden, tmp_path, shelf):
    """The least recently used files go; a text that is in memory too stays there."""
    folder, file = shelf
    size = file.stat().st_size
    cache = PrefixCache(golden, folder=folder, max_disk_bytes=int(2.5 * size))
    for token in (4, 5, 6):
        warm(cache, [token, *PROMPT], "dspark")
        assert sum(each.stat().st_size for each in folder.glob("*/*")) <= cache.shelf.max_bytes
    assert not file.exists()
    assert [kept.file is None for kept in cache.kept] == [True, False, False]
    assert reused(cache, [4, *PROMPT, *MORE], "dspark") > 0


@pytest.mark.parametrize("error", [OSError("no space left on device"), RuntimeError("[save] failed")])
def test_full_disk(golden, tmp_path, monkeypatch, caplog, error):
    """What cannot be written is kept in memory, with a warning."""

    def full(*arguments):
        raise error

    monkeypatch.setattr(mx, "save_safetensors", full)
    cache = PrefixCache(golden, folder=tmp_path)
    warm(cache, PROMPT, "dspark")
    assert "could not be kept on disk" in caplog.text
    assert not list(tmp_path.glob("*/*"))
    assert reused(cache, PROMPT + MORE, "dspark") > 0


def test_only_the_owner_may_look(golden, tmp_path):
    assert PrefixCache(golden, folder=tmp_path / "kept").shelf.folder.stat().st_mode & 0o077 == 0


def test_what_is_not_its_own_is_left_alone(golden, tmp_path):
    """A folder may hold the reader's own models too: however small the limit, none is removed, and none counts."""
    own = [tmp_path / name for name in (
        "model.safetensors", "my-model/model-00001-of-00002.safetensors", f"{'a' * 32}/model.safetensors",
        f"my-model/{'b' * 64}.safetensors", f"{'c' * 32}/{'d' * 63}.safetensors", f"{'e' * 32}/{'f' * 64}.txt",
    )]  # fmt: skip
    for file in own:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * 10**6)
        os.utime(file, ns=(1, 1))
    cache = PrefixCache(golden, folder=tmp_path, max_disk_bytes=10**6)
    warm(cache, PROMPT, "dspark")
    assert all(file.exists() for file in own)
    assert cache.kept[0].file.exists()
    small = PrefixCache(golden, folder=tmp_path, max_disk_bytes=0)
    warm(small, PROMPT + MORE, "dspark")
    assert all(file.exists() for file in own)
    assert not list(cache.shelf.folder.glob("*"))


def test_files_of_another_pair_count_too(golden, tmp_path):
    """The limit is the folder's: another pair's files, older ones, make way."""
    other = PrefixCache(lab.Pair(golden.target, {}, golden.tokenizer), folder=tmp_path)
    warm(other, PROMPT, "lookup")
    (file,) = tmp_path.glob("*/*.safetensors")
    warm(PrefixCache(golden, folder=tmp_path, max_disk_bytes=file.stat().st_size), PROMPT, "lookup")
    assert not file.exists() and len(list(tmp_path.glob("*/*.safetensors"))) == 1


def test_the_least_recently_used_file_goes_first(golden, tmp_path):
    """Reading a file counts as its use, after a restart too; nothing of this is known from memory."""
    cache = PrefixCache(golden, max_bytes=0, folder=tmp_path)
    texts = [[token, *PROMPT] for token in (4, 5, 6)]
    for second, text in enumerate(texts, start=1):
        warm(cache, text, "dspark")
        os.utime(cache.kept[-1].file, ns=(second, second))
    files = [kept.file for kept in cache.kept]
    held, _ = cache.take("dspark", [*texts[0], *MORE])
    assert held >= len(texts[0]) - 1 and files[0].stat().st_mtime_ns > 3
    again = PrefixCache(golden, max_bytes=0, folder=tmp_path, max_disk_bytes=2 * files[0].stat().st_size)
    assert [kept.file for kept in again.kept] == [files[1], files[2], files[0]]
    again.make_room()
    assert [kept.file for kept in again.kept] == [files[2], files[0]]
    assert [file.exists() for file in files] == [True, False, True]
