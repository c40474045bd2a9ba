"""Coverage-guided fuzzing: `python -m tests.fuzz TARGET [libFuzzer's options]`, in an environment that has atheris (`make fuzz`).

Finds start from `tests/fuzz/corpus/TARGET` and go to `build/fuzz/TARGET`; an input that fails is written to `build/fuzz`. Put it
into the corpus with its fix: the test command tries the corpus each time.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["llmwarden.proxy"]):
    from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
FOUND = HERE.parents[1] / "build" / "fuzz"


def main() -> None:
    """Fuzz one target until libFuzzer's options say stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [-max_total_time=SECONDS …]")
    name = sys.argv[1]
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-artifact_prefix={FOUND}/{name}-",
        "-max_len=4096",
        *sys.argv[2:],
        str(found),
        str(HERE / "corpus" / name),
    ]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
