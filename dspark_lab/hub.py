"""Checkpoints on the Hub or on disk: what they weigh, said before a weight is fetched, and then fetching them.

huggingface-hub does the work: its cache, progress bars, resumed downloads, ``HF_HUB_OFFLINE`` and tokens are as
everywhere. Only numbers and settings are taken; a repository's code stays where it is.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dspark_lab.checkpoint import read_config, weight_files
from dspark_lab.packaging import one_line

# A chat template is text that jinja2 fills in inside a sandbox; repositories now keep it beside tokenizer_config.json.
FILES = ("*.json", "model*.safetensors", "chat_template.jinja")
SUBFOLDERS = "*/*"  # other formats of the same model
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A model or drafter before it is loaded.

    ``name``: its repository or folder. ``config``: its config.json. ``size``: bytes of its weights. ``missing``: bytes
    of what is not on this machine yet. ``folder``: where it is, if it is here whole.
    """

    name: str
    config: dict
    size: int
    missing: int = 0
    folder: Path | None = None

    def fetch(self):
        """The folder that holds it, downloaded if need be; an interrupted download goes on where it stopped."""
        from huggingface_hub import snapshot_download

        if self.folder:
            return self.folder
        try:
            return Path(snapshot_download(self.name, allow_patterns=FILES, ignore_patterns=SUBFOLDERS))
        except failures() as error:
            raise explain(self.name, error) from None


def is_repository(place):
    """Whether ``place`` (str or Path) names a repository on the Hub rather than a folder on this machine."""
    return isinstance(place, str) and bool(REPOSITORY.fullmatch(place)) and not Path(place).expanduser().exists()


def look_up(place):
    """The Checkpoint at ``place``, a folder (Path) or a repository (str), of which config.json alone is fetched.

    Where the Hub cannot be asked, what its cache has is taken. Raises FileNotFoundError for what is in neither place,
    ValueError for what is damaged.
    """
    if isinstance(place, Path):
        return on_disk(place, str(place))
    try:
        return on_the_hub(place)
    except failures() as error:
        return cached(place, error)


def on_disk(folder, name):
    """The Checkpoint in ``folder``."""
    return Checkpoint(name, read_config(folder), sum(file.stat().st_size for file in weight_files(folder)), 0, folder)


def on_the_hub(repository):
    """The Checkpoint in ``repository``, by what the Hub says of its files."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    info = HfApi().model_info(repository, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    wanted = list(filter_repo_objects(sizes, allow_patterns=FILES, ignore_patterns=SUBFOLDERS))
    weights = [name for name in wanted if name.endswith(".safetensors")]
    if "config.json" not in wanted or not weights:
        raise ValueError(f"{repository} has no config.json with model*.safetensors; other formats are not read")
    here = [isinstance(try_to_load_from_cache(repository, name, revision=info.sha), str) for name in wanted]
    missing = sum(sizes[name] for name, is_here in zip(wanted, here) if not is_here)
    config = read_config(Path(hf_hub_download(repository, "config.json")).parent)
    return Checkpoint(repository, config, sum(sizes[name] for name in weights), missing)


def cached(repository, error):
    """The Checkpoint of ``repository`` in the Hub's cache, or what ``error`` means if it is not there whole."""
    if found := in_cache(repository):
        return found
    raise explain(repository, error) from None


def in_cache(repository):
    """The Checkpoint of ``repository`` in the Hub's cache on this machine, or None if it is not there whole.

    The Hub itself is not asked. Raises ValueError for what is there and damaged.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, local_files_only=True, allow_patterns=FILES, ignore_patterns=SUBFOLDERS)
        return on_disk(Path(folder), repository)
    except failures():
        return None


def failures():
    """What huggingface-hub raises: errors of its own, which are OSErrors, and those of its HTTP library."""
    from huggingface_hub.errors import HTTPError

    return OSError, HTTPError


def explain(repository, error):
    """The FileNotFoundError that says what huggingface-hub's ``error`` means for somebody who wants ``repository``."""
    from huggingface_hub import errors, is_offline_mode

    if isinstance(error, errors.GatedRepoError):
        why = "asks you to accept its terms: do so on its page on the Hub, then `hf auth login` (or set HF_TOKEN)"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = "is neither a folder here nor a public repository on the Hub; check the name, or `hf auth login`"
    elif is_offline_mode():
        why = "is not whole in the Hub's cache on this machine, and HF_HUB_OFFLINE forbids to fetch it"
    else:
        why = f"cannot be fetched ({type(error).__name__}: {one_line(error)[:200]}); try again"
    return FileNotFoundError(f"{repository} {why}")
