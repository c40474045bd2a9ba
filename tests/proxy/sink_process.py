"""The real proxy with two sinks of its own: `Broken` raises on every record, `Lines` writes each as a line of JSON into the file `argv[1]`.

`tests/proxy/test_sinks.py` starts it in place of `python -m llmwarden proxy`.
"""

import json
import sys
from pathlib import Path

from llmwarden.proxy import main
from llmwarden.proxy.record import Record


class Broken:
    """Fails always."""

    def finished(self, record: Record) -> None:
        message = f"no place for the call of {record.service}"
        raise RuntimeError(message)


class Lines:
    """Writes what the test compares."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def finished(self, record: Record) -> None:
        tokens = record.tokens
        line = {
            "trace": record.trace.trace_id,
            "model": record.model,
            "status": record.status,
            "error": record.error,
            "stream": record.asked.stream,
            "pieces": record.answer.pieces,
            "tokens": [tokens.input, tokens.output],
            "estimated": record.estimated,
            "refused": record.refused,
            "budget": record.budget,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main.main([], sinks=[Broken(), Lines(Path(sys.argv[1]))]))
