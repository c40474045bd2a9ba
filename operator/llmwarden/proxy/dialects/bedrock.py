"""Amazon Bedrock's runtime: Converse and InvokeModel, whole and streamed; errors and refusals as AWS' SDKs name them.

Chat completions that Bedrock serves under `/openai/v1` are OpenAI's own. Counting tokens, guardrails and batches (`async-invoke`) pass.
"""

from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.dialects.base import Api, Match, Target
from llmwarden.proxy.dialects.bedrock_converse import Converse
from llmwarden.proxy.dialects.bedrock_invoke import Invoke
from llmwarden.proxy.dialects.bedrock_shared import is_opaque, model_name, read_path
from llmwarden.proxy.seam import Refusal

_CONVERSE: Final = Converse()
_INVOKE: Final = Invoke("chat")
_EMBED: Final = Invoke("embeddings")
# Errors of ours by status, as Bedrock's own model has them.
_KINDS: Final = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    504: "ModelTimeoutException",
}


class Bedrock:
    """`base.Dialect`."""

    name = "bedrock"
    backends = frozenset({"Bedrock"})

    def match(self, target: Target) -> Match | None:
        """By the path: it names the model and the operation."""
        found = read_path(target.path) if target.method == "POST" else None
        if found is None:
            return None
        verb, model = found.verb.lower(), found.model
        api: Api = _CONVERSE
        head = None
        if verb.startswith("invoke"):
            api = _EMBED if "embed" in model.lower() else _INVOKE
            head = _INVOKE.head
        return Match(api, model=model_name(model), stream="stream" in verb, alias=is_opaque(model), head=head)

    def error_body(self, status: int, code: str, message: str) -> bytes:  # noqa: ARG002 - the interface's
        """An error in the shape of AWS' REST APIs; `__type` names it where there is no `x-amzn-errortype`."""
        kind = _KINDS.get(status, "ServiceUnavailableException" if status >= 500 else "ValidationException")  # noqa: PLR2004 - HTTP's classes
        return msgspec.json.encode({"__type": kind, "message": message})

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """400, which AWS' SDKs do not send again; 429 only where that is what is meant."""
        status, kind = 400, "ServiceQuotaExceededException"
        headers = [(names.HEADER_BUDGET, budget.encode()), (names.HEADER_CODE, code.encode())]
        if retry_after is not None:
            status, kind = 429, "ThrottlingException"
            headers.append((b"Retry-After", b"%d" % retry_after))
        headers.append((b"x-amzn-errortype", kind.encode()))
        return Refusal(status, msgspec.json.encode({"message": message}), tuple(headers))


DIALECT: Final = Bedrock()
