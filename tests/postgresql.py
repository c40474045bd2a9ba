"""A real PostgreSQL for tests: Debian's, started once for the whole run on a socket of its own, as an ordinary user.

It listens on no address: only who may open the socket's folder reaches it. A fresh data folder costs seconds to make, so
one is kept in the cache and copied.
"""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg

from cluster.locks import locked
from cluster.packages import ensure_debian
from cluster.paths import cache_root

_PROGRAMS = Path("/usr/lib/postgresql")  # Debian keeps each version's in a folder of its own, none on PATH
_SETTINGS = ("listen_addresses=", "max_connections=60", "shared_buffers=64MB", "logging_collector=off")
SECONDS = 30.0


def programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs, installed where that is allowed. Raises ClusterError."""
    found = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        ensure_debian({"pg_ctlcluster": "postgresql"})
        found = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


@dataclass
class Server:
    """One PostgreSQL server; `folder` holds its data and its socket."""

    folder: Path
    bin: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        # With whoever started it: a test process that is killed ends nothing itself.
        arguments = [
            "setpriv",
            "--pdeathsig",
            "INT",
            str(self.bin / "postgres"),
            "-D",
            str(self.folder / "data"),
            "-k",
            str(self.folder),
        ]
        for setting in _SETTINGS:
            arguments += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                user=_user(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        ready = [str(self.bin / "pg_isready"), "-q", "-h", str(self.folder)]
        for _ in range(int(SECONDS * 20)):
            if subprocess.run(ready, check=False, capture_output=True).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        message = f"PostgreSQL did not start: {(self.folder / 'log').read_text(errors='replace')[-2000:]}"
        raise AssertionError(message)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back what is under way, SIGQUIT leaves as a crash does."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(SECONDS)
            self.process = None

    def database(self) -> str:
        """Make a fresh database, and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def allow(self, url: str, *, allowed: bool) -> None:
        """Let sessions of a database begin, or end all that there are and refuse new ones."""
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {'true' if allowed else 'false'}".encode())
            if not allowed:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    def url(self, name: str) -> str:
        """URL of a database."""
        return f"postgresql://llmwarden@/{name}?host={self.folder}"

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def make() -> Server:
    """Start a server of one's own; the caller removes it. Raises ClusterError where there is no PostgreSQL."""
    found = programs()
    version = found.parent.name
    template = cache_root() / "postgresql" / version
    with locked(cache_root() / "locks" / "postgresql.lock", "PostgreSQL's empty database"):
        if not template.exists():
            with tempfile.TemporaryDirectory() as scratch:
                shutil.chown(scratch, _user() or os.geteuid())
                data = Path(scratch) / "data"
                subprocess.run(
                    [
                        str(found / "initdb"),
                        "-D",
                        str(data),
                        "-U",
                        "llmwarden",
                        "-A",
                        "trust",
                        "-E",
                        "UTF8",
                        "--locale=C",
                    ],
                    user=_user(),
                    check=True,
                    capture_output=True,
                    cwd="/",
                )
                template.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(data, template)
    folder = Path(tempfile.mkdtemp(prefix="llmwarden-pg-"))
    shutil.copytree(template, folder / "data")
    user = _user()
    if user is not None:
        subprocess.run(["chown", "-R", user, str(folder)], check=True)
    (folder / "data").chmod(0o700)
    server = Server(folder, found)
    server.start()
    return server


@cache
def shared() -> Server:
    """Return the run's one server, which ends with it."""
    server = make()
    atexit.register(server.remove)
    return server
