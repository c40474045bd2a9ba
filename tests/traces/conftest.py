"""Backends, once for the tier: Jaeger and Phoenix, as processes with their stores in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.traces import programs
from tests.traces.backends import Jaeger, Phoenix
from tests.traces.collecting import Process


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


@pytest.fixture
async def phoenix(tmp_path: Path) -> AsyncIterator[Phoenix]:
    http, grpc = free_port(), free_port()
    interpreter, environment = await asyncio.to_thread(programs.python)
    environment |= {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_WORKING_DIR": str(tmp_path),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    }
    process = Process("phoenix", tmp_path, interpreter, "-m", "phoenix.server.main", "serve", **environment)
    try:
        await process.start(http, 120)
        yield Phoenix(f"http://127.0.0.1:{http}")
    finally:
        await process.stop()
