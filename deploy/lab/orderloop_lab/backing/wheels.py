"""Where the wheels that carry a foreign program have put it."""

import importlib.util
from pathlib import Path

from orderloop_lab.errors import LabError


def folder_of(package: str, *, wheel: str, brings: str, setting: str) -> Path:
    """The installed folder of `package`, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LabError(
            f"{brings} is missing: the wheel `{wheel}` is not installed (or does not exist for this platform). "
            f"Run `pip install {wheel}`, or name a server of your own in {setting}."
        )
    return Path(spec.submodule_search_locations[0])
