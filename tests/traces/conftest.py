"""Backends, one process each for the tier, with their stores in memory. They start beside the tests that need none of them."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.traces import programs
from tests.traces.backends import Jaeger, Phoenix
from tests.traces.collecting import listens


def _wanted(request: pytest.FixtureRequest, fixture: str) -> bool:
    return any(fixture in getattr(item, "fixturenames", ()) for item in request.session.items)


def _kept(command: list[str], environment: dict[str, str] | None, log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    yield
    # Nothing of it is wanted any more, and Jaeger takes its time to end politely.
    child.kill()
    child.wait(30)


@pytest.fixture(scope="session", autouse=True)
def _phoenix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix | None]:
    """Half a minute of one core until it answers."""
    if not _wanted(request, "phoenix"):
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
    command = [interpreter, "-m", "phoenix.server.main", "serve"]
    for _ in _kept(command, environment, directory / "log"):
        yield Phoenix(f"http://127.0.0.1:{http}")


@pytest.fixture(scope="session", autouse=True)
def _jaeger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger | None]:
    if not _wanted(request, "jaeger"):
        yield None
        return
    grpc, http, query = free_port(), free_port(), free_port()
    flags = {
        "collector.otlp.grpc.host-port": f"127.0.0.1:{grpc}",
        "collector.otlp.http.host-port": f"127.0.0.1:{http}",
        "query.http-server.host-port": f"127.0.0.1:{query}",
        **{name: f"127.0.0.1:{free_port()}" for name in Jaeger.OTHERS},
    }
    command = [str(programs.jaeger()), *(f"--{name}={value}" for name, value in flags.items())]
    for _ in _kept(command, None, tmp_path_factory.mktemp("jaeger") / "log"):
        yield Jaeger(f"127.0.0.1:{grpc}", f"http://127.0.0.1:{query}", f"http://127.0.0.1:{http}")


async def _listening(url: str) -> None:
    async with asyncio.timeout(600):  # a Phoenix on a busy machine takes minutes
        while not await listens(int(url.rpartition(":")[2])):
            await asyncio.sleep(0.1)


@pytest.fixture
async def phoenix(_phoenix: Phoenix | None) -> Phoenix:
    assert _phoenix is not None
    await _listening(_phoenix.url)
    return _phoenix


@pytest.fixture
async def jaeger(_jaeger: Jaeger | None) -> Jaeger:
    assert _jaeger is not None
    await _listening(_jaeger.url)
    return _jaeger
