"""Client certificates, where the platform asks API servers for them: on the real process."""

import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmwarden.serving import pki
from tests.webhook.besieged import Webhook, client_identity, injects, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = dt.datetime.now(dt.UTC)
CA, OTHER_CA = pki.make_ca(NOW), pki.make_ca(NOW)


def identity(name: str, ca: pki.KeyPair = CA) -> pki.KeyPair:
    """A client certificate."""
    issuer, key = pki._load(ca)
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        pki._builder(subject, issuer.subject, own.public_key(), NOW, 1)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pki.KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webhook(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Webhook]:
    settings = {"LLMWARDEN_WEBHOOK_CLIENT_CA": CA.certificate, "LLMWARDEN_WEBHOOK_CLIENT_NAMES": '["kube-apiserver"]'}
    async with running(tmp_path_factory.mktemp("certificates"), **settings) as started:
        yield started


async def answered(webhook: Webhook, given: ssl.SSLContext | None) -> bool:
    """Whether a review is answered; the handshake or the first read fails otherwise."""
    try:
        answer = await webhook.ask(identity=given)
    except (ssl.SSLError, ConnectionError):
        return False
    assert not answer or injects(answer)
    return bool(answer)


async def test_a_certificate_with_a_name_that_may_call_is_needed(webhook: Webhook, tmp_path: Path) -> None:
    assert await answered(webhook, client_identity(webhook, identity("kube-apiserver"), tmp_path))
    for pair in (identity("kubelet"), identity("kube-apiserver", OTHER_CA)):
        assert not await answered(webhook, client_identity(webhook, pair, tmp_path))
    assert not await answered(webhook, None)
    assert 'reason="certificate",server="webhook"} 1.0' in await webhook.metrics()


async def test_a_serving_certificate_of_the_same_ca_is_no_client_s(webhook: Webhook, tmp_path: Path) -> None:
    leaf = pki.make_leaf(CA, ["kube-apiserver"], NOW)
    assert not await answered(webhook, client_identity(webhook, leaf, tmp_path))


async def test_who_has_none_keeps_nobody_out(webhook: Webhook, tmp_path: Path) -> None:
    await webhook.crowd(600, b"POST /", "10")
    try:
        assert await answered(webhook, client_identity(webhook, identity("kube-apiserver"), tmp_path))
    finally:
        await webhook.lift()
