"""Which pods each replica hears from: a pod speaks with one of them, and any of them is asked how many pods report.

Sets of pods, not numbers: a pod that moved to another replica is in both for a while, and is one pod.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec
import sqlalchemy as sa

from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database

Pods = Mapping[str, Collection[str]]  # by service (`namespace/name`), UIDs of pods
STALE_SECONDS: Final = 120  # a replica that has not said anything for so long is gone

presence = sa.Table(
    "presence",
    t.METADATA,
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),  # seconds since the epoch
    sa.Column("pods", sa.Text, nullable=False),  # JSON of Pods
)


def share(database: Database, replica: str, pods: Pods, now: int) -> dict[str, set[str]]:
    """Say which pods this replica hears from; returns those of the others. Writes: hold other writers off. Raises UnavailableError."""
    mine = {
        "replica": replica,
        "seen_at": now,
        "pods": msgspec.json.encode({k: sorted(v) for k, v in pods.items()}).decode(),
    }
    insert = database.insert(presence)
    upsert = insert.on_conflict_do_update(
        index_elements=["replica"], set_={name: insert.excluded[name] for name in ("seen_at", "pods")}
    )
    found: dict[str, set[str]] = {}
    with database.guard(), database.transaction() as connection:
        connection.execute(upsert, mine)
        connection.execute(sa.delete(presence).where(presence.c.seen_at < now - STALE_SECONDS))
        for (text,) in connection.execute(sa.select(presence.c.pods).where(presence.c.replica != replica)):
            for service, uids in msgspec.json.decode(text, type=dict[str, list[str]]).items():
                found.setdefault(service, set()).update(uids)
    return found
