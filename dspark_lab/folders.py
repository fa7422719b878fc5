"""Where this user's files are kept."""

import os
import sys
from pathlib import Path


def cache_folder():
    """The folder for what can be made again: in $XDG_CACHE_HOME, or else where the system keeps such things."""
    place = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or place, "dspark-lab")
