"""Kafka's jars: which ones (`jars.lock`: coordinate and sha256 of each), fetched once, checked at every start.

`python -m orderloop_lab.backing.lock` writes the lock.
"""

import hashlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.maven import MavenContext
from requests import RequestException
from rich.progress import Progress

from orderloop_lab.cache import cache_folder, once
from orderloop_lab.errors import LabError
from orderloop_lab.progress import step

LOCK = Path(__file__).with_name("jars.lock")


@dataclass(frozen=True, slots=True)
class Jar:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def locked(lock: Path = LOCK) -> list[Jar]:
    lines = (line.split() for line in lock.read_text(encoding="ascii").splitlines() if not line.startswith("#"))
    return [Jar(*coordinate.split(":"), sha256=sha256) for coordinate, sha256 in lines]


def class_path(progress: Progress, lock: Path = LOCK) -> str:
    """The checked jars as Java wants them; fetched first where the cache does not have them."""
    jars = locked(lock)
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    folder = once(cache_folder() / f"kafka-{digest}", lambda target: _fetch(jars, target, progress))
    for jar in jars:
        check(jar, folder / jar.file_name)
    return f"{folder}/*"


def check(jar: Jar, file: Path) -> None:
    actual = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "none: it is not there"
    if actual != jar.sha256:
        raise LabError(
            f"{file} is refused: its sha256 is {actual}, jars.lock says {jar.sha256}. "
            f"Delete {file.parent} and start again; if that does not help, ask who changed the file you are served."
        )


def _fetch(jars: list[Jar], target: Path, progress: Progress) -> None:
    with (
        step(progress, "Kafka: fetching its jars (once per machine)", total=len(jars)) as task,
        tempfile.TemporaryDirectory(dir=target.parent) as downloads,
        ThreadPoolExecutor(max_workers=6) as pool,
    ):
        context = _maven(Path(downloads))

        def fetch(jar: Jar) -> None:
            artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
            try:
                file = artifact.resolve()
            except (RequestException, RuntimeError) as error:
                raise LabError(
                    f"{jar.file_name} cannot be fetched ({type(error).__name__}): the first start needs the network. "
                    "Connect, name a mirror in [repositories] of ~/.config/jgo.conf, "
                    "or a broker of your own in ORDERLOOP_KAFKA_BOOTSTRAP."
                ) from error
            check(jar, file)
            shutil.move(file, target / jar.file_name)
            progress.advance(task)

        list(pool.map(fetch, jars))


def _maven(folder: Path) -> MavenContext:
    return MavenContext(repo_cache=folder, remote_repos=GlobalSettings.load().repositories or None, timeout=30)
