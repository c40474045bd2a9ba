"""What Bedrock's operations have in common: the model in the path, framing, tiers, errors in a stream."""

import posixpath
import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from llmwarden.proxy.dialects.base import NAME_LENGTH, Answer, Asked
from llmwarden.proxy.dialects.prompt import error_type
from llmwarden.proxy.framing import Framing

# Two patterns, each of which looks at a character once: a single one would try every `/model/` of a hostile path with every end.
_VERB: Final = re.compile(r"(?i)(/(converse|converse-stream|invoke|invoke-with-response-stream))/?\Z")
_BEFORE: Final = re.compile(r"(?is).*/model/")
_EVENTSTREAM: Final = b"application/vnd.amazon.eventstream"
# Of these an ARN's last part is the model's own id; all others (application profiles, provisioned and imported models) are opaque.
_NAMED: Final = frozenset({"foundation-model", "inference-profile"})
_MOST_MS: Final = 86_400_000  # of one call; more is no duration
_TIERS: Final = frozenset({"flex", "priority", "batch"})


class Path(NamedTuple):
    """A path's parts: what comes before the model, the model, what comes after it, and the operation's name in there."""

    before: str
    model: str
    after: str
    verb: str


def read_path(path: str) -> Path | None:
    """The parts of an operation's path. An ARN's model may have slashes; decoded, they stand for themselves."""
    verb = _VERB.search(path)
    before = _BEFORE.match(path, 0, verb.start() - 1) if verb is not None and verb.start() else None
    if verb is None or before is None:
        return None
    return Path(before[0], path[before.end() : verb.start()], verb[1], verb[2])


class Endpoint:
    """What holds for every operation."""

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002
        """As it is: the model stands in the path, and usage comes by itself."""
        return body

    def write_target(self, target: bytes, model: str) -> bytes:
        """The target with another model, also where it is spelled in a way of its own."""
        raw, mark, query = target.decode("latin-1").partition("?")
        found = read_path(raw) or read_path(posixpath.normpath("/" + unquote(raw).lstrip("/")))
        if found is None:
            return target
        return f"{found.before}{quote(model, safe='')}{found.after}{mark}{query}".encode("latin-1", "replace")

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """The binary event stream, where the server says so."""
        return Framing.EVENTSTREAM if content_type.startswith(_EVENTSTREAM) else None

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken away."""
        return event


def model_name(identifier: str) -> str:
    """A model by the id or ARN in a path: what prices and people call it."""
    if not identifier.startswith("arn:"):
        return identifier[:NAME_LENGTH]
    kind, name = _resource(identifier)
    return (name if kind in _NAMED else f"{kind}/{name}")[:NAME_LENGTH]


def _resource(arn: str) -> tuple[str, str]:
    """(kind, name) of `arn:partition:service:region:account:kind/name`; the name may have colons."""
    kind, _, name = arn.split(":", 5)[-1].partition("/")
    return kind, name


def is_opaque(identifier: str) -> bool:
    """Whether an id does not say which model it stands for."""
    return identifier.startswith("arn:") and _resource(identifier)[0] not in _NAMED


def note_tier(answer: Answer, tier: str | None) -> None:
    """The tier that the call was served in, where it is priced apart."""
    answer.tier = tier if tier in _TIERS else ""


def note_latency(answer: Answer, milliseconds: int | None) -> None:
    """How long it took by Bedrock's own clock."""
    if milliseconds is not None and 0 <= milliseconds <= _MOST_MS:
        answer.server_seconds = milliseconds / 1000


def is_error(answer: Answer, payload: bytes) -> bool:
    """Note an exception in a stream: `framing.eventstream` puts its type before it."""
    name = payload[2 : payload.find(b'"', 2)]
    if name != b"error" and not name.lower().endswith(b"exception"):
        return False
    if not answer.error:
        answer.error = error_type(name.decode("latin-1"))
    return True
