import threading
from pathlib import Path

import pytest

from orderloop_lab.backing import jars
from orderloop_lab.cache import once
from orderloop_lab.errors import LabError
from orderloop_lab.progress import steps

QUIET = steps(quiet=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORDERLOOP_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def one_jar_lock(folder: Path, sha256: str | None = None) -> Path:
    """The smallest of the locked jars, so that a fetch takes a moment."""
    jar = next(jar for jar in jars.locked() if jar.artifact == "jspecify")
    lock = folder / "jars.lock"
    lock.write_text(f"{jar.group}:{jar.artifact}:{jar.version} {sha256 or jar.sha256}\n")
    return lock


def test_the_lock_names_kafka_and_the_logging_binding_of_its_own_log4j() -> None:
    versions = {jar.artifact: jar.version for jar in jars.locked()}
    assert versions["kafka_2.13"] == versions["kafka-clients"] == "4.4.0"
    assert versions["log4j-slf4j-impl"] == versions["log4j-core"]


def test_jars_are_fetched_checked_and_found_again(cache: Path, tmp_path: Path) -> None:
    lock = one_jar_lock(tmp_path)
    assert jars.class_path(QUIET, lock) == jars.class_path(QUIET, lock)
    assert [file.name for file in cache.glob("kafka-*/*.jar")] == ["jspecify-1.0.0.jar"]


def test_a_jar_with_another_sha256_than_the_lock_says_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="refused: its sha256 is"):
        jars.class_path(QUIET, one_jar_lock(tmp_path, sha256="0" * 64))
    assert not list(cache.glob("kafka-*/*.jar"))


def test_a_jar_that_was_changed_in_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    lock = one_jar_lock(tmp_path)
    jars.class_path(QUIET, lock)
    next(cache.glob("kafka-*/*.jar")).write_bytes(b"something else")
    with pytest.raises(LabError, match="refused"):
        jars.class_path(QUIET, lock)


def test_without_network_the_first_start_says_what_to_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    (tmp_path / "jgo.conf").write_text("[repositories]\nnowhere = http://127.0.0.1:9\n")
    with pytest.raises(LabError, match="the first start needs the network"):
        jars.class_path(QUIET, one_jar_lock(tmp_path))
    assert not list(cache.glob("kafka-*/*.jar"))


def test_two_first_starts_at_once_fill_the_cache_once(tmp_path: Path) -> None:
    filled: list[Path] = []

    def fill(target: Path) -> None:
        (target / "file").write_text("whole")
        filled.append(target)

    threads = [threading.Thread(target=once, args=(tmp_path / "cache" / "thing", fill)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert (tmp_path / "cache" / "thing" / "file").read_text() == "whole"


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="ORDERLOOP_LAB_CACHE"):
        once(tmp_path / "file" / "thing", lambda _: None)
