"""`python -m llmwarden ROLE`: one image, several processes.

Each role is imported only when it runs: a sidecar must not pay for the operator's imports.
"""

import importlib
import sys

ROLES = {
    "operator": "llmwarden.control.handlers.main",
    "webhook": "llmwarden.webhook.main",
    "ledger": "llmwarden.ledger.main",
    "proxy": "llmwarden.proxy.main",
    "gpu-exporter": "llmwarden.gpu.main",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one role until it ends; returns the process's exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in ROLES:
        sys.stderr.write(f"usage: python -m llmwarden {{{','.join(ROLES)}}}\n")
        return 2
    # httpx does without its command line where that cannot be imported: 4 MiB of rich and pygments, which no role shows anybody.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    module = importlib.import_module(ROLES[given[0]])
    return int(module.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
