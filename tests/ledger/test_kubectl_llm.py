"""`kubectl-llm` as a process against a real ledger. The API server between them is a stand-in that speaks its two answers as
recorded: TokenRequest, and the proxy of a Service, which drops Authorization."""

import asyncio
import csv
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmwarden.serving import servers
from tests.ledger.test_http import Ledger, row, running
from tests.unit.ledger.objects import service, view_of

MINTABLE = {
    "llmwarden-system/llmwarden-viewer": "all-viewer",
    "llmwarden-system/llmwarden-corrector": "corrector",
    "shop/viewer": "shop-viewer",
    "shop/default": "unbound",
}


def status(code: int, reason: str, message: str) -> Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if code == 404:
        body["details"] = {"name": "x"}
    return JSONResponse(body, code)


@asynccontextmanager
async def api_server(ledger: Ledger, mintable: dict[str, str]) -> AsyncIterator[str]:
    async def mint(request: Request) -> Response:
        name = f"{request.path_params['namespace']}/{request.path_params['name']}"
        assert (await request.json())["spec"]["audiences"] == ["llmwarden-ledger"]
        if name not in mintable:
            return status(403, "Forbidden", f'serviceaccounts "{name}" is forbidden')
        return JSONResponse({"kind": "TokenRequest", "status": {"token": mintable[name]}}, 201)

    async def proxy(request: Request) -> Response:
        if request.path_params["namespace"] == "closed":
            message = (
                'services "https:llmwarden-ledger:https" is forbidden: User "dana" cannot get resource "services/proxy"'
            )
            return status(403, "Forbidden", message)
        if request.path_params["namespace"] != "llmwarden-system":
            return status(404, "NotFound", 'services "llmwarden-ledger" not found')
        headers = {key: value for key, value in request.headers.items() if key not in {"authorization", "host"}}
        async with httpx.AsyncClient() as client:
            path = request.path_params["path"]
            answer = await client.request(
                request.method, f"{ledger.url}/{path}", params=dict(request.query_params), headers=headers,
                content=await request.body(),
            )  # fmt: skip
        return Response(answer.content, answer.status_code, {"content-type": answer.headers["content-type"]})

    async def whoami(_: Request) -> Response:
        return JSONResponse({"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "ada"}}}, 201)

    app = Starlette(
        routes=[
            Route("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", mint, methods=["POST"]),
            Route(
                "/api/v1/namespaces/{namespace}/services/https:llmwarden-ledger:https/proxy/{path:path}",
                proxy,
                methods=["GET", "POST"],
            ),
            Route("/apis/authentication.k8s.io/v1/selfsubjectreviews", whoami, methods=["POST"]),
        ]
    )
    stop = asyncio.Event()
    sock = servers.listen("127.0.0.1", 0)
    server = asyncio.create_task(servers.serve(app, sock=sock, stop=stop, grace_seconds=1))
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    stop.set()
    await server


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with running(tmp_path) as made:
        made.core.configure(view_of(service(), service("bot", "web")))
        await made.report(row(labels={"team": "red"}))
        await made.report(row(model="gpt-4o"), token="web-pod", pod={"namespace": "web", "name": "bot-0", "uid": "w"})
        # The clock of the tests stands still: "24h" of the real one would be another day.
        yield made


async def kubectl_llm(
    ledger: Ledger, tmp_path: Path, *arguments: str, mintable: dict[str, str] | None = None, command: str = "cost"
) -> tuple[int, str, str]:
    async with api_server(ledger, MINTABLE if mintable is None else mintable) as url:
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "of-the-cluster"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmwarden.cli.main", command, "--kubeconfig", str(path), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_table_is_of_the_context_s_namespace(ledger: Ledger, tmp_path: Path) -> None:
    code, out, err = await kubectl_llm(ledger, tmp_path)
    assert (code, err) == (0, "")
    assert "shop/bot" in out
    assert "gpt-4o-mini" in out
    assert "$0.21" in out
    assert "web/bot" not in out


async def test_all_namespaces_as_json_and_csv(ledger: Ledger, tmp_path: Path) -> None:
    code, out, _ = await kubectl_llm(ledger, tmp_path, "-A", "-o", "json", "--by", "service")
    assert code == 0
    assert [found["by"]["service"] for found in json.loads(out)["rows"]] == ["web/bot", "shop/bot"]
    code, out, _ = await kubectl_llm(ledger, tmp_path, "-A", "-o", "csv", "--by", "label.team")
    assert out.splitlines()[0].startswith("label.team,usd,requests")
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == ["", "red"]


async def test_who_may_not_reach_the_ledger_is_told_which_role_to_ask_for(ledger: Ledger, tmp_path: Path) -> None:
    arguments = ("--ledger-namespace", "closed", "--service-account", "shop/viewer")
    code, _, err = await kubectl_llm(ledger, tmp_path, *arguments)
    assert code == 1
    assert "binding of the Role llmwarden-ask in namespace closed" in err
    assert "rbac.askLedger" in err


async def test_a_team_member_sees_the_team_s_and_is_told_why_not_the_rest(ledger: Ledger, tmp_path: Path) -> None:
    mine = {"shop/viewer": "shop-viewer", "shop/default": "unbound"}
    code, out, _ = await kubectl_llm(ledger, tmp_path, "--service-account", "shop/viewer", mintable=mine)
    assert code == 0
    assert "shop/bot" in out
    code, _, err = await kubectl_llm(ledger, tmp_path, "-A", mintable=mine)
    assert code == 1
    assert "--service-account" in err
    code, _, err = await kubectl_llm(ledger, tmp_path, mintable=mine)
    assert code == 1
    assert "kubectl create rolebinding" in err
    code, _, err = await kubectl_llm(ledger, tmp_path, "--ledger-namespace", "elsewhere", "--service-account", "shop/viewer", mintable=mine)  # fmt: skip
    assert code == 1
    assert "--ledger-namespace" in err


SINCE = ("--since", "2026-11-01T00:00:00Z", "--until", "2026-12-01T00:00:00Z")


async def test_usage_is_written_off_shown_and_listed(ledger: Ledger, tmp_path: Path) -> None:
    order = ("bot", *SINCE, "--usd", "0.15", "--reason", "forged, ticket 7")
    code, out, err = await kubectl_llm(ledger, tmp_path, *order, "--dry-run", command="writeoff")
    assert (code, err) == (0, "")
    assert out.startswith("Would write off $0.15")
    code, out, err = await kubectl_llm(ledger, tmp_path, *order, "--id", "ticket-0007", command="writeoff")
    assert (code, err) == (0, "")
    assert out.startswith("Wrote off $0.15")
    assert "of shop/bot. Id: ticket-0007." in out
    code, out, _ = await kubectl_llm(ledger, tmp_path, *order, "--id", "ticket-0007", command="writeoff")
    assert "was not done again" in out
    code, out, _ = await kubectl_llm(ledger, tmp_path)
    assert "Written off" in out
    assert "$0.06" in out
    code, out, _ = await kubectl_llm(ledger, tmp_path, "-A", "-o", "csv", "--by", "service")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert {line["service"]: line["written_off_picodollars"] for line in lines} == {
        "shop/bot": str(714_285 * 150_000 + 71_428 * 600_000), "web/bot": "0",
    }  # fmt: skip
    code, out, _ = await kubectl_llm(ledger, tmp_path, command="corrections")
    assert code == 0
    assert "forged, ticket 7" in out
    assert "ada" in out


async def test_only_who_may_corrects(ledger: Ledger, tmp_path: Path) -> None:
    order = ("bot", *SINCE, "--reason", "mine")
    for command in ("writeoff", "release"):
        code, _, err = await kubectl_llm(
            ledger, tmp_path, *order, mintable={"shop/default": "unbound"}, command=command
        )
        assert code == 1
        assert "llmwarden-corrector" in err
        own = ("--service-account", "shop/viewer")
        code, _, err = await kubectl_llm(ledger, tmp_path, *order, *own, command=command)
        assert code == 1
        assert f"may not {command} llmservices in all namespaces" in err
    code, out, _ = await kubectl_llm(ledger, tmp_path, *order, command="release")
    assert (code, out.startswith("Released $0.00, 0 tokens")) == (0, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--usd", "nan"),
        ("--usd", "0"),
        ("--usd", "-1"),
        ("--tokens", "1.5"),
        ("--usd", "1", "--tokens", "1"),
        ("--since", "yesterday"),
    ],
)
async def test_a_malformed_order_is_not_sent(ledger: Ledger, tmp_path: Path, wrong: tuple[str, ...]) -> None:
    code, _, err = await kubectl_llm(ledger, tmp_path, "bot", "--reason", "x", *wrong, command="writeoff")
    assert code == 2
    assert wrong[0] in err
