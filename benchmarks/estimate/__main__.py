"""Makes the venv with the reference tokenizers, and runs the measurement in it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LITELLM = "litellm==1.109.1"  # without what it depends on: only the vocabularies in it are read


def main() -> int:
    """Run the measurement with this command's arguments."""
    cache = Path(os.environ.get("LLMWARDEN_CACHE") or Path.home() / ".cache" / "llmwarden") / "estimate"
    python = cache / "bin" / "python"
    stamp = cache / "stamp"
    wanted = LITELLM + (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(cache, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
        subprocess.run([*pip, "--no-deps", LITELLM], check=True)
        stamp.write_text(wanted)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    command = [str(python), "-m", "benchmarks.estimate.measure", *sys.argv[1:]]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
