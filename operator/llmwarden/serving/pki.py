"""Certificates of webhook and ledger: a CA of our own and leaves signed by it, renewed in time.

Pure but for the keys' randomness: times are arguments, nothing is read or written. The operator calls `secrets_wanted`
and applies what it returns; webhook and ledger read their Secret through `serving.ServingCertificate`.

With the CA goes the webhook's path, which is random: API servers show no client certificate by default, so the path is what tells them from
others. Both are replaced together. The predecessors of both are good for `OVERLAP` more. The API server is told of a new path after `SETTLE`
only: until then not every webhook has read it.
"""

import base64
import binascii
import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmwarden import names
from llmwarden.errors import InvalidSpecError

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 90
CA_KEY, CA_CERT = "tls.key", "tls.crt"  # the keys of a kubernetes.io/tls Secret
CA_BUNDLE: Final = "ca.crt"
PATH, OLD_PATH, ROTATED, PATHS = (
    "path",
    "old-path",
    "rotated",
    "paths",
)  # the last one in the webhook's Secret, the others in the CA's
OVERLAP: Final = dt.timedelta(days=1)  # for which the old CA is trusted and the old path is served
SETTLE: Final = dt.timedelta(
    minutes=10
)  # longer than a webhook takes to read its Secret, or to be replaced in an upgrade
CLOCK_SKEW: Final = dt.timedelta(hours=1)  # how far another machine's clock may be behind ours

_NEVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

# Secret of a leaf -> name of the Service that it serves.
LEAVES: Final[Mapping[str, str]] = {
    names.SECRET_WEBHOOK_TLS: names.WEBHOOK,
    names.SECRET_LEDGER_TLS: names.LEDGER,
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM (the key PKCS#8, unencrypted)."""

    certificate: str
    key: str


def make_ca(now: dt.datetime, *, common_name: str = "LLM Warden CA", days: int = CA_DAYS) -> KeyPair:
    """Make a self-signed CA (ECDSA P-256) that may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def make_leaf(ca: KeyPair, dns_names: Sequence[str], now: dt.datetime, *, days: int = LEAF_DAYS) -> KeyPair:
    """Make a serving certificate for `dns_names`, signed by `ca`; the first is the common name.

    It never outlives its CA. Raises InvalidSpecError where the CA is no usable certificate with its key.
    """
    issuer, issuer_key = _load(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns_names[0][:64])])  # 64: X.520's limit
    days = min(days, max((issuer.not_valid_after_utc - now).days, 0))
    certificate = (
        _builder(name, issuer.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(item) for item in dns_names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def needs_renewal(certificate: str, now: dt.datetime) -> bool:
    """Whether a third or less of a PEM certificate's lifetime is left, or it cannot be read at all."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return True
    lifetime = parsed.not_valid_after_utc - parsed.not_valid_before_utc
    return parsed.not_valid_after_utc - now <= lifetime / 3


def dns_names(service: str, namespace: str, cluster_domain: str = "cluster.local") -> tuple[str, ...]:
    """Give the names under which a Service is called: `svc.ns.svc` first, which is how we and the API server call it."""
    return (
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc.{cluster_domain}",
    )


def secrets_wanted(
    existing: Mapping[str, Mapping[str, Any]], now: dt.datetime, namespace: str, cluster_domain: str = "cluster.local"
) -> list[dict[str, Any]]:
    """Give the Secrets that must be written: missing, unreadable, due for renewal, or not signed by our present CA.

    `existing`: Secrets of our namespace by name, as the API server gives them. Empty where all is well.
    A CA that is renewed keeps its predecessor in the bundle (`ca.crt`) for OVERLAP, so that whoever reads the bundle trusts the leaves
    of both until those are replaced.
    """
    written: list[dict[str, Any]] = []
    held = existing.get(names.SECRET_CA)
    old_ca, bundle, route = pair_of(held), _text(held, CA_BUNDLE), _Route.of(held)
    ca = old_ca
    if ca is None or not _usable_ca(ca) or needs_renewal(ca.certificate, now):
        ca = make_ca(now)
        previous = [old_ca.certificate] if old_ca is not None and _valid(old_ca.certificate, now) else []
        bundle = "".join([ca.certificate, *previous])
        route = _Route.new((route.path or names.WEBHOOK_PATH) if previous else "", now)
    elif not route.path:
        # Of an earlier version: its webhooks serve one fixed path until they are replaced.
        route = _Route.new(names.WEBHOOK_PATH, now)
    elif now - route.rotated >= OVERLAP:
        bundle, route = ca.certificate, _Route(route.path, "", route.rotated)
    if ca.certificate not in bundle:
        bundle = ca.certificate
    if (ca, bundle, route) != (old_ca, _text(held, CA_BUNDLE), _Route.of(held)):
        written.append(_secret(names.SECRET_CA, namespace, ca, bundle, route.dump()))
    for secret, service in LEAVES.items():
        wanted = dns_names(service, namespace, cluster_domain)
        leaf = pair_of(existing.get(secret))
        more = {PATHS: "\n".join(filter(None, (route.path, route.old)))} if secret == names.SECRET_WEBHOOK_TLS else {}
        if leaf is None or needs_renewal(leaf.certificate, now) or not _serves(leaf, ca, wanted):
            leaf = make_leaf(ca, wanted, now)
        elif all(_text(existing.get(secret), key) == value for key, value in {CA_BUNDLE: bundle, **more}.items()):
            continue
        written.append(_secret(secret, namespace, leaf, bundle, more))
    return written


def called_path(ca_secret: Mapping[str, Any] | None, now: dt.datetime) -> str:
    """Give the path under which the API server is to call the webhook, out of the CA's Secret; "" where there is none."""
    route = _Route.of(ca_secret)
    return route.old if route.old and now - route.rotated < SETTLE else route.path


def paths(webhook_secret: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Give the paths that the webhook serves, out of its Secret; none where an earlier version has written it."""
    return tuple(_text(webhook_secret, PATHS).split())


@dataclass(frozen=True, slots=True)
class _Route:
    """The webhook's path, the one before it ("" where there is none), and since when this one is."""

    path: str
    old: str
    rotated: dt.datetime

    @classmethod
    def new(cls, old: str, now: dt.datetime) -> "_Route":
        return cls(f"{names.WEBHOOK_PATH}/{secrets.token_hex(16)}", old, now.replace(microsecond=0))

    @classmethod
    def of(cls, secret: Mapping[str, Any] | None) -> "_Route":
        try:
            rotated = dt.datetime.fromisoformat(_text(secret, ROTATED))
        except ValueError:
            return cls("", "", _NEVER)
        path = _text(secret, PATH)
        return (
            cls(path, _text(secret, OLD_PATH), rotated)
            if rotated.tzinfo and path.startswith("/")
            else cls("", "", _NEVER)
        )

    def dump(self) -> dict[str, str]:
        return {PATH: self.path, OLD_PATH: self.old, ROTATED: self.rotated.isoformat()}


def ca_bundle(secret: Mapping[str, Any] | None) -> str | None:
    """Give the PEM bundle that verifies our leaves, out of the CA's or a leaf's Secret; None where there is none."""
    return _text(secret, CA_BUNDLE) or None


def pair_of(secret: Mapping[str, Any] | None) -> KeyPair | None:
    """Give the key pair of a kubernetes.io/tls Secret; None where it is missing or incomplete."""
    certificate, key = _text(secret, CA_CERT), _text(secret, CA_KEY)
    return KeyPair(certificate, key) if certificate and key else None


def _text(secret: Mapping[str, Any] | None, key: str) -> str:
    encoded = ((secret or {}).get("data") or {}).get(key, "")
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _secret(
    name: str, namespace: str, pair: KeyPair, bundle: str, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    data = {CA_CERT: pair.certificate, CA_KEY: pair.key, CA_BUNDLE: bundle, **(more or {})}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_NAME: "llmwarden"},
        },
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def as_written(secret: Mapping[str, Any]) -> dict[str, Any]:
    """Make the manifest that a Secret of ours was written from."""
    metadata = secret["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {key: metadata[key] for key in ("name", "namespace", "labels") if key in metadata},
        "type": secret["type"],
        "data": secret["data"],
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode())


def _load(pair: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Parse a pair; raises InvalidSpecError where it is no ECDSA pair that belongs together."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except (ValueError, TypeError) as error:
        message = f"the certificate or its key cannot be read: {error}"
        raise InvalidSpecError(message) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        message = "the certificate does not belong to its key"
        raise InvalidSpecError(message)
    return certificate, key


def _valid(certificate: str, now: dt.datetime) -> bool:
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc > now
    except ValueError:
        return False


def _usable_ca(ca: KeyPair) -> bool:
    try:
        certificate, _ = _load(ca)
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (InvalidSpecError, x509.ExtensionNotFound):
        return False


def _serves(leaf: KeyPair, ca: KeyPair, wanted: Sequence[str]) -> bool:
    """Whether a leaf is signed by `ca` and holds all of `wanted`."""
    try:
        certificate, _ = _load(leaf)
        issuer, _ = _load(ca)
        certificate.verify_directly_issued_by(issuer)
        names_held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSpecError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(wanted) <= set(names_held.get_values_for_type(x509.DNSName))
