"""The cache folder: what is downloaded or built once per machine and shared by every lab on it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from orderloop_lab.errors import LabError


def cache_folder() -> Path:
    return Path(os.environ.get("ORDERLOOP_LAB_CACHE") or Path.home() / ".cache" / "orderloop")


def once(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`, filled by `fill(empty folder)` if it is not there yet.

    The lock lets one of two concurrent first starts do the work; the rename at the end means that whoever
    sees `target` sees all of it, also after a kill in the middle.
    """
    unfinished = target.with_name(target.name + ".unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(target)
    except OSError as error:
        raise LabError(
            f"Cannot fill the cache folder {target.parent} ({error.strerror or error}): "
            "free some space or name a writable folder in ORDERLOOP_LAB_CACHE."
        ) from error
    return target
