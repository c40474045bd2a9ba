#!/bin/sh
# Makes .venv hold exactly what the lock file says, with nothing on the machine but Python 3.11 or later.
# Quick when there is nothing to do: a stamp holds the lock's checksum.
set -eu
cd "$(dirname "$0")/.."
cache=${LLMWARDEN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llmwarden}
lock=requirements-dev.lock
sum=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.lock-sum 2>/dev/null || true)" = "$sum" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "bootstrap: installing Python from the distribution's packages"
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv >/dev/null
	else
		echo "bootstrap: Python 3.11 or later is needed; install it, e.g. sudo apt-get install python3 python3-venv" >&2
		exit 1
	fi
fi
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
	uv=$cache/uv/bin/uv
	if [ ! -x "$uv" ]; then
		echo "bootstrap: installing uv into $cache/uv"
		if ! "$python" -m venv "$cache/uv" >/dev/null 2>&1; then
			if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
				apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
				"$python" -m venv "$cache/uv"
			else
				echo "bootstrap: Python's venv module is missing; sudo apt-get install python3-venv" >&2
				exit 1
			fi
		fi
		"$cache/uv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.7'
	fi
fi
echo "bootstrap: installing the locked packages into .venv (about 10 s)"
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
"$uv" pip sync --quiet --python .venv/bin/python "$lock"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$sum" > .venv/.lock-sum
