"""Benchmarks give no figure of a server on which a commit promises nothing."""

import os
from collections.abc import Iterator

import pytest

from tests.support.databases import sync_to_disk
from tests.support.sessions import run


@pytest.fixture(scope="module")
def durable(postgres_admin_url: str) -> Iterator[None]:
    if "ORDERLOOP_POSTGRES_URL" in os.environ:
        yield
        return
    run(sync_to_disk(postgres_admin_url, wanted=True))
    yield
    run(sync_to_disk(postgres_admin_url, wanted=False))
