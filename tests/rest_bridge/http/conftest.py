"""A server with an application that a test holds in its hand."""

from collections.abc import AsyncIterator

import pytest

from tests.rest_bridge.http.app import App
from tests.rest_bridge.http.client import Client, Serving, serving


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def served(app: App) -> AsyncIterator[Serving]:
    async with serving(app) as running:
        yield running


@pytest.fixture
async def client(served: Serving) -> AsyncIterator[Client]:
    async with served.client() as connection:
        yield connection
