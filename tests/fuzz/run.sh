#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS. atheris lies in an environment of its own and is used beside .venv's packages: it is large, and of use nowhere else.
set -eu
cd "$(dirname "$0")/../.."
home=build/fuzz/venv
if ! "$home/bin/python" -c 'import atheris' 2>/dev/null; then
	.venv/bin/python -m venv "$home"
	"$home/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement requirements-fuzz.lock
fi
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
[ $# -gt 0 ] || set -- requests answers framings
for target; do
	echo "== $target: ${FUZZ_SECONDS:-600} s"
	PYTHONPATH="operator:.:$site" "$home/bin/python" -m tests.fuzz "$target" "-max_total_time=${FUZZ_SECONDS:-600}" -print_final_stats=1
done
