"""A simulated Bedrock (it is paid, and cannot be had here): it speaks the recorded protocol and checks every signature by botocore."""

import asyncio
import base64
import datetime as dt
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.proxy.fakes import Received, whole


def message(name: str, payload: bytes, *, kind: str = "event", more: bytes = b"") -> bytes:
    """One message of the binary event stream. `more` are headers as bytes."""
    headers = more
    for key, value in (
        (f":{kind}-type", name),
        (":content-type", "application/json"),
        (":message-type", kind),
    ):
        headers += bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    data = prelude + headers + payload
    return data + struct.pack(">I", zlib.crc32(data))


def event(name: str, body: dict[str, Any], *, kind: str = "event") -> bytes:
    """A modelled event or exception; Bedrock pads them to hide their length."""
    return message(name, json.dumps({**body, "p": "abcdefghijk"}, separators=(",", ":")).encode(), kind=kind)


def chunk(body: dict[str, Any]) -> bytes:
    """A piece of InvokeModelWithResponseStream: the model's own event."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})


class Bedrock:
    """Bedrock as a server: answers from `recorded/bedrock`, and refuses what is not signed as AWS would have it."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, str]] = {
            "AKIAIOSFODNN7EXAMPLE": (SECRET, "")
        }  # (secret, session token) by key id
        self.region = "eu-central-1"
        self.bearer = "bedrock-api-key-of-the-application"
        self.refused = 0  # for a bad signature
        self.replies: dict[str, bytes] = {}  # what to answer, by the end of the path, instead of what is recorded

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if not self._signed(request):
            self.refused += 1
            writer.write(error(403, "InvalidSignatureException", "The request signature we calculated does not match"))
            return
        verb = unquote(urlsplit(request.target).path).rpartition("/")[2]
        for end, reply in self.replies.items():
            if request.target.endswith(end):
                writer.write(reply)
                return
        family = _family(request)
        tools = "_tools" if b"toolConfig" in request.body else ""
        if verb == "converse-stream":
            await streamed(writer, recorded(f"converse_stream{tools}.eventstream"))
        elif verb == "converse":
            writer.write(whole(200, recorded(f"converse{tools}.json")))
        elif verb == "invoke-with-response-stream":
            await streamed(writer, recorded(f"invoke_{family}.eventstream"))
        elif verb == "invoke":
            writer.write(whole(200, recorded(f"invoke_{family}.json"), *COUNTS))
        elif verb == "count-tokens":
            writer.write(whole(200, b'{"inputTokens":14}'))
        elif verb == "completions":
            writer.write(whole(200, recorded("invoke_openai.json")))
        else:
            writer.write(whole(200, b"{}"))

    def _signed(self, request: Received) -> bool:
        """Whether botocore, given the same secret, comes to the same signature over what has arrived."""
        authorization = request.headers.get("authorization", "")
        if authorization == f"Bearer {self.bearer}":
            return True
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)",
            authorization,
        )
        if found is None or found[1] not in self.keys or found[3] != self.region:
            return False
        secret, token = self.keys[found[1]]
        names = found[4].split(";")
        must = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
        if not must <= set(names) or request.headers.get("x-amz-security-token", "") != token:
            return False
        stamp = dt.datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        if abs((dt.datetime.now(dt.UTC) - stamp).total_seconds()) > 300:
            return False
        signer = SigV4Auth(Credentials(found[1], secret), "bedrock", found[3])
        url = f"http://{request.headers['host']}{request.target}"
        again = AWSRequest(
            request.method, url, headers={name: request.headers[name] for name in names}, data=request.body
        )
        again.context["timestamp"] = request.headers["x-amz-date"]
        text = signer.string_to_sign(again, signer.canonical_request(again))
        return bool(signer.signature(text, again) == found[5])


SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
COUNTS = ("X-Amzn-Bedrock-Input-Token-Count: 5", "X-Amzn-Bedrock-Output-Token-Count: 2")
RECORDED = Path(__file__).parent / "recorded" / "bedrock"


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def error(status: int, kind: str, text: str) -> bytes:
    """As Bedrock's errors come: the class in a header, with the place it is from."""
    header = f"x-amzn-ErrorType: {kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return whole(status, json.dumps({"message": text}).encode(), header)


async def streamed(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A stream in chunks that do not care where messages begin."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n"
        b"X-Amzn-Bedrock-Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for at in range(0, len(data), 100):
        piece = data[at : at + 100]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")


def _family(request: Received) -> str:
    model = unquote(request.target)
    return next(
        (name for name in ("anthropic", "nova", "titan", "llama", "mistral", "cohere") if name in model), "openai"
    )


class Identity:
    """Where credentials come from: STS for web identities, and the agent of EKS Pod Identity; both hand out new ones each time."""

    def __init__(self, bedrock: Bedrock, *, seconds: float = 3600.0) -> None:
        self.bedrock = bedrock
        self.seconds = seconds
        self.given = 0
        self.tokens: list[str] = []  # with which they were asked for
        self.broken = False

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if self.broken:
            writer.write(whole(500, b"{}"))
            return
        self.given += 1
        key, secret, token = f"ASIAEXAMPLE{self.given:05}", f"sEcReT/{self.given:034}", f"tOkEn+/{self.given:020}=="
        self.bedrock.keys[key] = (secret, token)
        ends = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        if request.method == "GET":
            self.tokens.append(request.headers["authorization"])
            body = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": ends}
            writer.write(whole(200, json.dumps(body).encode()))
            return
        self.tokens.append(parse_qs(request.body.decode())["WebIdentityToken"][0])
        result = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>'
            f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
            f"<SessionToken>{token}</SessionToken><Expiration>{ends}</Expiration></Credentials>"
            "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
        writer.write(whole(200, result.encode(), content_type="text/xml"))
