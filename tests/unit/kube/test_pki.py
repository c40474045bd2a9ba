import base64
import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from llmwarden import names
from llmwarden.errors import InvalidSpecError
from llmwarden.serving import pki

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def existing(*secrets: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {secret["metadata"]["name"]: secret for secret in secrets}


def text(secret: dict[str, Any], key: str) -> str:
    return base64.b64decode(secret["data"][key]).decode()


def verify(leaf: str, bundle: str, name: str, when: dt.datetime) -> None:
    store = Store(x509.load_pem_x509_certificates(bundle.encode()))
    verifier = PolicyBuilder().store(store).time(when).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(leaf.encode()), [])


def test_a_leaf_is_what_a_server_needs_and_verifies() -> None:
    ca = pki.make_ca(NOW)
    leaf = pki.make_leaf(ca, pki.dns_names("llmwarden-ledger", "llmwarden-system"), NOW)
    parsed = x509.load_pem_x509_certificate(leaf.certificate.encode())
    assert isinstance(parsed.public_key(), ec.EllipticCurvePublicKey)
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert parsed.not_valid_after_utc == NOW + 90 * DAY
    for name in ("llmwarden-ledger.llmwarden-system.svc", "llmwarden-ledger.llmwarden-system.svc.cluster.local"):
        verify(leaf.certificate, ca.certificate, name, NOW)
    with pytest.raises(VerificationError):
        verify(leaf.certificate, ca.certificate, "elsewhere.svc", NOW)
    with pytest.raises(VerificationError):
        verify(leaf.certificate, pki.make_ca(NOW).certificate, "llmwarden-ledger.llmwarden-system.svc", NOW)


def test_renewal_is_due_when_a_third_is_left() -> None:
    leaf = pki.make_leaf(pki.make_ca(NOW), ["a.b.svc"], NOW).certificate
    assert not pki.needs_renewal(leaf, NOW + 59 * DAY)
    assert pki.needs_renewal(leaf, NOW + 61 * DAY)
    assert pki.needs_renewal("nonsense", NOW)


def test_a_leaf_never_outlives_its_ca() -> None:
    ca = pki.make_ca(NOW, days=10)
    leaf = x509.load_pem_x509_certificate(pki.make_leaf(ca, ["a.b.svc"], NOW).certificate.encode())
    assert leaf.not_valid_after_utc <= NOW + 10 * DAY


def test_a_ca_without_its_key_cannot_sign() -> None:
    one, other = pki.make_ca(NOW), pki.make_ca(NOW)
    with pytest.raises(InvalidSpecError):
        pki.make_leaf(pki.KeyPair(one.certificate, other.key), ["a.b.svc"], NOW)


def test_everything_is_made_at_first_and_nothing_again() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    assert [secret["metadata"]["name"] for secret in made] == [
        names.SECRET_CA,
        names.SECRET_WEBHOOK_TLS,
        names.SECRET_LEDGER_TLS,
    ]
    assert pki.secrets_wanted(existing(*made), NOW + DAY, "warden") == []
    webhook = made[1]
    verify(text(webhook, "tls.crt"), text(webhook, "ca.crt"), "llmwarden-webhook.warden.svc", NOW)


def test_only_a_leaf_that_is_due_is_renewed() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    later = NOW + 61 * DAY
    renewed = pki.secrets_wanted(existing(*made), later, "warden")
    assert [secret["metadata"]["name"] for secret in renewed] == [names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS]
    assert text(renewed[0], "ca.crt") == text(made[0], "ca.crt")
    verify(text(renewed[0], "tls.crt"), text(made[0], "ca.crt"), "llmwarden-webhook.warden.svc", later + 50 * DAY)


def test_a_lost_or_broken_leaf_is_replaced_alone() -> None:
    ca, webhook, ledger = pki.secrets_wanted({}, NOW, "warden")
    assert [item["metadata"]["name"] for item in pki.secrets_wanted(existing(ca, webhook), NOW, "warden")] == [
        names.SECRET_LEDGER_TLS
    ]
    broken = {**ledger, "data": {**ledger["data"], "tls.key": "!!!"}}
    assert [item["metadata"]["name"] for item in pki.secrets_wanted(existing(ca, webhook, broken), NOW, "warden")] == [
        names.SECRET_LEDGER_TLS
    ]


def test_a_new_ca_keeps_its_predecessor_trusted_until_the_leaves_are_replaced() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    later = NOW + 2500 * DAY
    renewed = pki.secrets_wanted(existing(*made), later, "warden")
    assert len(renewed) == 3
    bundle = text(renewed[0], "ca.crt")
    assert text(made[0], "tls.crt") in bundle
    old_leaf = pki.make_leaf(pki.KeyPair(text(made[0], "tls.crt"), text(made[0], "tls.key")), ["a.b.svc"], later)
    verify(old_leaf.certificate, bundle, "a.b.svc", later)
    assert pki.secrets_wanted(existing(*renewed), later, "warden") == []


def test_another_namespace_needs_other_names() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    moved = pki.secrets_wanted(existing(*made), NOW, "elsewhere")
    assert [secret["metadata"]["name"] for secret in moved] == [names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS]


def path_of(secret: dict[str, Any]) -> str:
    return text(secret, pki.PATH)


def test_the_webhook_s_path_cannot_be_guessed_and_stays() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    path = path_of(made[0])
    assert path.startswith(f"{names.WEBHOOK_PATH}/")
    assert len(path) - len(names.WEBHOOK_PATH) == 33
    assert path != path_of(pki.secrets_wanted({}, NOW, "warden")[0])
    assert pki.called_path(made[0], NOW) == path
    assert pki.paths(made[1]) == (path,)
    assert pki.PATHS not in made[2]["data"]  # not the ledger's


def test_a_path_is_replaced_with_the_ca_and_both_predecessors_are_good_for_as_long() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    later = NOW + 2500 * DAY
    renewed = pki.secrets_wanted(existing(*made), later, "warden")
    old, new = path_of(made[0]), path_of(renewed[0])
    assert old != new
    assert pki.paths(renewed[1]) == (new, old)
    # Webhooks have not read it yet: what the API server is told follows.
    assert pki.called_path(renewed[0], later) == old
    assert pki.called_path(renewed[0], later + pki.SETTLE) == new
    assert pki.secrets_wanted(existing(*renewed), later + pki.OVERLAP - DAY / 100, "warden") == []
    ended = pki.secrets_wanted(existing(*renewed), later + pki.OVERLAP, "warden")
    assert [item["metadata"]["name"] for item in ended] == [
        names.SECRET_CA,
        names.SECRET_WEBHOOK_TLS,
        names.SECRET_LEDGER_TLS,
    ]
    assert pki.paths(ended[1]) == (new,)
    assert text(ended[0], "ca.crt") == text(renewed[0], "tls.crt")
    assert text(ended[1], "tls.crt") == text(renewed[1], "tls.crt")  # the leaf stays
    assert pki.secrets_wanted(existing(*ended), later + pki.OVERLAP, "warden") == []


def test_secrets_of_an_earlier_version_get_a_path_while_its_webhooks_serve_theirs() -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    for secret in made:
        secret["data"] = {
            key: value for key, value in secret["data"].items() if key in {"tls.crt", "tls.key", "ca.crt"}
        }
    assert pki.called_path(made[0], NOW) == ""
    upgraded = pki.secrets_wanted(existing(*made), NOW, "warden")
    assert [item["metadata"]["name"] for item in upgraded] == [names.SECRET_CA, names.SECRET_WEBHOOK_TLS]
    assert pki.paths(upgraded[1]) == (path_of(upgraded[0]), names.WEBHOOK_PATH)
    assert text(upgraded[0], "tls.crt") == text(made[0], "tls.crt")
    assert pki.called_path(upgraded[0], NOW) == names.WEBHOOK_PATH
    assert pki.called_path(upgraded[0], NOW + pki.SETTLE) == path_of(upgraded[0])


def test_without_its_ca_a_path_has_no_successor_to_share_with() -> None:
    """Whoever deletes the CA's Secret wants neither the CA nor the path any longer."""
    _, webhook, ledger = pki.secrets_wanted({}, NOW, "warden")
    made = pki.secrets_wanted(existing(webhook, ledger), NOW, "warden")
    assert pki.paths(made[1]) == (path_of(made[0]),)
    assert pki.called_path(made[0], NOW) == path_of(made[0])


@pytest.mark.parametrize("damage", [{pki.ROTATED: "!!!"}, {pki.ROTATED: ""}, {pki.PATH: ""}, {pki.PATH: "eA=="}])
def test_a_damaged_path_is_replaced(damage: dict[str, str]) -> None:
    made = pki.secrets_wanted({}, NOW, "warden")
    made[0]["data"].update(damage)
    assert len(pki.paths(pki.secrets_wanted(existing(*made), NOW, "warden")[1])) == 2
