"""Runs other programs to their end, with their own words in the error when they fail."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.errors import ClusterError


def run(
    command: Sequence[str | Path],
    *,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 600,
) -> str:
    """Return the program's stdout; raises ClusterError with the end of its stderr if it fails or takes too long."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=given,
            env=environment,
            cwd=folder,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL if given is None else None,
        )
    except FileNotFoundError as error:
        message = f"{words[0]} is not on this machine."
        raise ClusterError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"`{' '.join(words)}` did not end within {timeout:.0f} s."
        raise ClusterError(message) from error
    if done.returncode:
        message = f"`{' '.join(words)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-2000:]}"
        raise ClusterError(message)
    return done.stdout


def succeeds(command: Sequence[str | Path]) -> bool:
    """Return whether the program is there and ends well; its output is of no interest."""
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0
