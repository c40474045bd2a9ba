"""Our signature is the one that botocore makes of the same request."""

import datetime as dt
import hashlib
from unittest.mock import patch

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.aws import sigv4
from llmwarden.proxy.aws.sigv4 import Keys, Scope, Signer
from llmwarden.proxy.seam import Header

HOST = "bedrock-runtime.eu-central-1.amazonaws.com"
NOW = dt.datetime(2026, 11, 21, 10, 11, 12, tzinfo=dt.UTC)
SCOPE = Scope("eu-central-1", "bedrock")
SIGNER = Signer()


def theirs(keys: Keys, method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    request = AWSRequest(method, f"https://{HOST}{target}", headers=dict(headers), data=body)
    auth = SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token or None), "bedrock", "eu-central-1")
    # The clock is the only thing that is replaced: a signature names its second.
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        auth.add_auth(request)
    assert request.headers["X-Amz-Date"] == "20261121T101112Z"
    return str(request.headers["Authorization"])


def ours(keys: Keys, method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    sent: list[Header] = [(b"host", b"Host", HOST.encode())]
    sent += [(name.lower().encode(), name.encode(), value.encode()) for name, value in headers.items()]
    lines = SIGNER.sign(
        keys,
        SCOPE,
        method=method.encode(),
        target=target.encode(),
        headers=sent,
        payload_hash=hashlib.sha256(body).hexdigest().encode(),
        now=NOW,
    )
    found = dict(line.decode().removesuffix("\r\n").split(": ", 1) for line in lines)
    assert found["X-Amz-Date"] == "20261121T101112Z"
    assert found.get("X-Amz-Security-Token", "") == keys.token
    return found["Authorization"]


KEYS = st.builds(
    Keys,
    st.text("ABCDEFGHIJ234567", min_size=16, max_size=20),
    st.text("abc/+XYZ", min_size=40, max_size=40),
    st.sampled_from(["", "IQoJb3JpZ2luX2VjE//+="]),
)
SEGMENTS = st.lists(
    st.sampled_from(
        ["model", "us.anthropic.claude-v2%3A0", "a%2Fb", "converse", "x~y", "a b".replace(" ", "%20"), "a+b"]
    ),
    min_size=1,
    max_size=4,
)
QUERIES = st.sampled_from(["", "?maxResults=5&b=2&a=1", "?a=2&a=1", "?statusEquals=Completed"])
VALUES = st.text("abc ,;/=é\t", max_size=12).map(str.strip).filter(bool)
HEADERS = st.dictionaries(st.sampled_from(["Content-Type", "X-Amz-Target", "X-Amzn-Bedrock-Trace", "Accept"]), VALUES)


@given(
    keys=KEYS,
    method=st.sampled_from(["POST", "GET"]),
    segments=SEGMENTS,
    query=QUERIES,
    headers=HEADERS,
    body=st.binary(max_size=50),
)
def test_like_botocore(
    *, keys: Keys, method: str, segments: list[str], query: str, headers: dict[str, str], body: bytes
) -> None:
    target = "/" + "/".join(segments) + query
    signature, reference = ours(keys, method, target, headers, body), theirs(keys, method, target, headers, body)
    # botocore signs every header; what is signed must be said, and what we sign must be right.
    mine = signature.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    reduced = {name: value for name, value in headers.items() if name.lower() in mine}
    assert set(mine) <= set(reference.partition("SignedHeaders=")[2].partition(",")[0].split(";"))
    assert signature == theirs(keys, method, target, reduced, body)


@pytest.mark.parametrize(
    ("target", "canonical"),
    [
        (b"/model/anthropic.claude-v2%3A0/converse", b"/model/anthropic.claude-v2%253A0/converse"),
        (b"/model/arn%3Aaws%3Abedrock%2Fx/invoke", b"/model/arn%253Aaws%253Abedrock%252Fx/invoke"),
        (b"/model/a:0/invoke", b"/model/a%3A0/invoke"),
        (b"/", b"/"),
        (b"", b"/"),
        (b"//a/./b/../c/", b"/a/c/"),
    ],
)
def test_the_path_is_encoded_once_more_than_it_is_sent(target: bytes, canonical: bytes) -> None:
    assert sigv4._canonical_path(target) == canonical


AUTHORIZATION = (
    b"AWS4-HMAC-SHA256 Credential=AKIA/20261121/us-west-2/bedrock/aws4_request, SignedHeaders=host, Signature=ab"
)


@pytest.mark.parametrize(
    ("value", "host", "expected"),
    [
        (AUTHORIZATION, HOST, SCOPE),  # backend.url says another region than the application's environment
        (AUTHORIZATION, "bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Scope("us-gov-west-1", "bedrock")),
        (AUTHORIZATION, "vpce-1-x.bedrock-runtime.eu-west-3.vpce.amazonaws.com", Scope("eu-west-3", "bedrock")),
        (AUTHORIZATION, "gateway.internal", Scope("us-west-2", "bedrock")),
        (b"AWS4-ECDSA-P256-SHA256 Credential=AKIA/20261121/bedrock/aws4_request, S", HOST, SCOPE),
    ],
)
def test_region_and_service(value: bytes, host: str, expected: Scope) -> None:
    headers = [(b"authorization", b"Authorization", value)]
    assert sigv4.is_signed(headers)
    assert sigv4.scope(headers, host) == expected


def test_a_bearer_key_is_no_signature() -> None:
    assert not sigv4.is_signed([(b"authorization", b"Authorization", b"Bearer bedrock-api-key-AWS4-")])
    assert not sigv4.is_signed([(b"x-amz-date", b"X-Amz-Date", b"20261121T101112Z")])


def test_a_secret_does_not_show() -> None:
    keys = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI", "token")
    assert "wJalr" not in f"{keys!r} {keys!s} {[keys]}"


def test_derived_keys_are_bounded() -> None:
    signer = Signer()
    for number in range(100):
        signer.sign(
            Keys("AKIA", f"secret{number}"), SCOPE, method=b"POST", target=b"/", headers=[], payload_hash=b"", now=NOW
        )
    assert len(signer._derived) <= sigv4._KEYS


def test_paths_are_bounded_and_right_when_they_come_again() -> None:
    signer = Signer()
    for number in range(1000):
        for _ in range(2):
            assert signer._path(b"/model/m%%3A%d/invoke" % number) == b"/model/m%%253A%d/invoke" % number
    assert len(signer._paths) <= sigv4._PATHS
