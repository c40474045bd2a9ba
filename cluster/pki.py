"""Keys and certificates of a cluster, made with openssl, which every system has: the standard library makes none.

Two authorities as in any well-kept cluster: etcd's is apart, because whoever reaches etcd is above all of RBAC.
"""

from dataclasses import dataclass
from pathlib import Path

from cluster.shell import run

_DAYS = "3650"


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path

    @property
    def pair(self) -> Pair:
        """The authority's own certificate and key."""
        return Pair(self.folder / "ca.crt", self.folder / "ca.key")

    def make(self, subject: str) -> None:
        """Create the authority."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new_key(self.pair.key)
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"]
        added = [word for extension in extensions for word in ("-addext", extension)]
        run(
            [
                *("openssl", "req", "-x509", "-new", "-days", _DAYS, "-subj", f"/CN={subject}"),
                *("-key", self.pair.key, "-out", self.pair.certificate),
                *added,
            ]
        )

    def issue(self, name: str, subject: str, hosts: tuple[str, ...] = ()) -> Pair:
        """Issue a certificate: for a server if it has hosts (DNS names or addresses), and for a client in any case."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        new_key(pair.key)
        request = run(["openssl", "req", "-new", "-key", pair.key, "-subj", subject])
        usages = "serverAuth,clientAuth" if hosts else "clientAuth"
        extensions = f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usages}\n"
        if hosts:
            named = [f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts]
            extensions += f"subjectAltName={','.join(named)}\n"
        file = self.folder / f"{name}.ext"
        file.write_text(extensions)
        run(
            [
                *("openssl", "x509", "-req", "-days", _DAYS),
                *("-CA", self.pair.certificate, "-CAkey", self.pair.key),
                *("-CAcreateserial", "-CAserial", self.folder / "serial"),
                *("-extfile", file, "-out", pair.certificate),
            ],
            given=request,
        )
        return pair


def new_key(path: Path) -> None:
    """Make a P-256 key, readable by its owner only."""
    path.touch(mode=0o600)
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path])


def public_key(private: Path, public: Path) -> None:
    """Write the public half of a key."""
    run(["openssl", "pkey", "-in", private, "-pubout", "-out", public])
