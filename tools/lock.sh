#!/bin/sh
# Writes the lock files: every version pinned with its hashes, no index address in them (the machine's own is used).
set -eu
cd "$(dirname "$0")/.."
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock "$@"
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock "$@"
# Without the override of pyproject.toml: in the image botocore has what it asks for.
uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group bedrock -o requirements-bedrock.lock "$@"
uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group fuzz -o requirements-fuzz.lock "$@"
uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group compile --constraint requirements-dev.lock -o requirements-compile.lock "$@"
