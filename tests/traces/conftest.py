"""Backends, once for the tier: Jaeger and Phoenix, as processes with their stores in memory."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.traces import programs
from tests.traces.backends import Jaeger, Phoenix
from tests.traces.collecting import Process, listens


@pytest.fixture
async def jaeger(tmp_path: Path) -> AsyncIterator[Jaeger]:
    grpc, query = free_port(), free_port()
    others = {name: f"127.0.0.1:{free_port()}" for name in Jaeger.OTHERS}
    flags = {
        "collector.otlp.grpc.host-port": f"127.0.0.1:{grpc}",
        "query.http-server.host-port": f"127.0.0.1:{query}",
        **others,
    }
    process = Process("jaeger", tmp_path, programs.jaeger(), *(f"--{name}={value}" for name, value in flags.items()))
    try:
        await process.start(query)
        yield Jaeger(f"127.0.0.1:{grpc}", f"http://127.0.0.1:{query}")
    finally:
        await process.stop()


@pytest.fixture(scope="session", autouse=True)
def starting_phoenix(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Phoenix | None]:
    """Phoenix takes half a minute to start: it does beside the tests before its own."""
    if not any("phoenix" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    http, grpc = free_port(), free_port()
    interpreter, environment = programs.python()
    directory = tmp_path_factory.mktemp("phoenix")
    environment |= {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_WORKING_DIR": str(directory),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    }
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen(
            [interpreter, "-m", "phoenix.server.main", "serve"], env=environment, stdout=log, stderr=log
        )
    try:
        yield Phoenix(f"http://127.0.0.1:{http}")
    finally:
        child.terminate()
        child.wait(30)


@pytest.fixture
async def phoenix(starting_phoenix: Phoenix | None) -> Phoenix:
    assert starting_phoenix is not None
    async with asyncio.timeout(150):
        while not await listens(int(starting_phoenix.url.rpartition(":")[2])):
            await asyncio.sleep(0.2)
    return starting_phoenix
