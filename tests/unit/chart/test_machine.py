"""A busy machine gets longer quotas; the measure is the kernel's own count of idle time."""

from pathlib import Path

import pytest

from tests import machine

BEFORE = "cpu  1000 0 1000 8000 0 0 0 0 0 0\n"


@pytest.mark.parametrize(
    ("after", "cores", "expected"),
    [
        ("cpu  1000 0 1000 8200 0 0 0 0 0 0\n", 2, 1.0),  # idle
        ("cpu  1100 0 1000 8100 0 0 0 0 0 0\n", 2, 1.5),  # one core of two
        ("cpu  1150 0 1050 8000 0 0 0 0 0 0\n", 2, 2.0),  # both
        ("cpu  1000 0 1000 8100 100 0 0 0 0 0\n", 2, 1.0),  # waiting for a disk is no work
        ("cpu  1000 0 1000 8200 0 0 0 0 0 0\n", 1, 2.0),  # one core does for two
        ("cpu  1000 0 1000 8000 0 0 0 0 0 0\n", 2, 1.0),  # a clock that stands
        ("nonsense\n", 2, 1.0),
    ],
)
def test_slowness_by_what_the_kernel_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, cores: int, expected: float
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(BEFORE)
    monkeypatch.setattr("tests.machine.time.sleep", lambda _: stat.write_text(after))
    assert machine.slowness(stat, 0, cores) == pytest.approx(expected)


def test_a_machine_that_does_not_say_is_taken_for_free(tmp_path: Path) -> None:
    assert machine.slowness(tmp_path / "absent", 0, 2) == 1.0
