"""Benchmarks give no figure of a server on which a commit promises nothing."""

from collections.abc import Iterator

import pytest

from tests.support.databases import sync_to_disk
from tests.support.sessions import run


@pytest.fixture(scope="module")
def durable(postgres_admin_url: str) -> Iterator[None]:
    run(sync_to_disk(postgres_admin_url, wanted=True))
    yield
    run(sync_to_disk(postgres_admin_url, wanted=False))
