"""The test command: what counts as a pass, a skip and a failure."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes, run
from tests.preparing import Preparation, Preparer
from tests.processes import Children


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOGS", tmp_path)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the inner pytest starts in half the time


@pytest.fixture
def children() -> Iterator[Children]:
    started = Children()
    yield started
    started.close()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def command_tier(code: str, quota: float = 30.0, needs: tuple[str, ...] = ()) -> run.Tier:
    return run.Tier("some", quota, (run.Step("step", python(code)),), needs)


def pytest_tier(root: Path, body: str) -> run.Tier:
    (root / "tests" / "some").mkdir(parents=True)
    (root / "tests" / "some" / "test_it.py").write_text(body)
    argv = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/some")
    return run.Tier("some", 60, (run.Step("pytest", argv, pytest=True),))


def go(tier: run.Tier, children: Children, *prepared: Preparation) -> run.Result:
    preparer = Preparer(children, prepared)
    preparer.start()
    return run.run_tier(tier, children, preparer, ())


def counts(result: run.Result) -> tuple[int, int, int]:
    return (result.passed, result.failed, result.skipped)


def test_a_command_is_one_test(children: Children) -> None:
    assert counts(go(command_tier("pass"), children)) == (1, 0, 0)
    assert counts(go(command_tier("raise SystemExit(3)"), children)) == (0, 1, 0)


def test_pytest_is_counted_with_reasons(tmp_path: Path, children: Children) -> None:
    body = (
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert 1 == 2, 'sums'\n"
        "def test_c(): pytest.skip('no moon')\n"
        "@pytest.fixture\ndef broken(): raise OSError('torn')\n"
        "def test_d(broken): pass\n"
    )
    result = go(pytest_tier(tmp_path, body), children)
    assert counts(result) == (1, 2, 1)
    notes = "\n".join(result.notes)
    assert "sums" in notes
    assert "torn" in notes
    assert "skipped 1: no moon" in notes


def test_a_pytest_that_cannot_even_collect_fails(tmp_path: Path, children: Children) -> None:
    assert counts(go(pytest_tier(tmp_path, "import nothing_of_that_name"), children))[1] == 1


def test_a_pytest_that_dies_fails(tmp_path: Path, children: Children) -> None:
    result = go(pytest_tier(tmp_path, "import os\ndef test_a(): os._exit(0)"), children)
    assert counts(result) == (0, 1, 0)


def test_over_the_quota_is_a_failure_and_ends_the_step(children: Children) -> None:
    result = go(command_tier("import time; time.sleep(600)", quota=0.3), children)
    assert result.failed >= 1
    assert any("quota" in note for note in result.notes)


def test_no_tests_is_a_skip_and_under_ci_a_failure(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = pytest_tier(tmp_path, "")
    assert counts(go(tier, children)) == (0, 0, 1)
    monkeypatch.setenv("CI", "true")
    assert counts(go(tier, children)) == (0, 1, 0)


def test_all_skipped_is_a_failure_under_ci(tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = go(pytest_tier(tmp_path, "import pytest\ndef test_a(): pytest.skip('no')"), children)
    assert result.failed == 1


def test_an_obstacle_is_named(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = run.Tier("some", 5, (run.Step("step", python("pass")),), obstacle=lambda: "no root")
    result = go(tier, children)
    assert counts(result) == (0, 0, 1)
    assert "no root" in result.notes[0]
    monkeypatch.setenv("CI", "true")
    assert counts(go(tier, children)) == (0, 1, 0)


def test_a_tier_waits_for_what_it_needs(tmp_path: Path, children: Children) -> None:
    made = Preparation("made", python("import time; time.sleep(0.2); open('made', 'w').close()"), 30)
    result = go(command_tier("open('made').close()", needs=("made",)), children, made)
    assert counts(result) == (1, 0, 0)
    assert (tmp_path / "made").exists()


def test_what_cannot_be_prepared_fails_the_tier(children: Children) -> None:
    broken = Preparation("broken", python("print('no compiler'); raise SystemExit(1)"), 30)
    result = go(command_tier("pass", needs=("broken",)), children, broken)
    assert counts(result) == (0, 1, 0)
    assert "no compiler" in result.notes[0]


def test_a_preparation_has_a_quota_too(children: Children) -> None:
    slow = Preparation("slow", python("import time; time.sleep(600)"), 0.3)
    assert counts(go(command_tier("pass", needs=("slow",)), children, slow)) == (0, 1, 0)


def test_what_was_made_here_is_undone_and_what_stood_before_is_left(tmp_path: Path, children: Children) -> None:
    for name, standing in (("ours", "raise SystemExit(1)"), ("theirs", "pass")):
        made = Preparation(
            name, python("pass"), 30, standing=python(standing), undo=python(f"open('{name}-undone', 'w').close()")
        )
        preparer = Preparer(children, (made,))
        preparer.start()
        assert run.run_tier(command_tier("pass", needs=(name,)), children, preparer, ()).passed == 1
        preparer.undo()
    assert (tmp_path / "ours-undone").exists()
    assert not (tmp_path / "theirs-undone").exists()


def test_lanes_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each waits for the other's file: one after the other, neither would end in time.
    wait = "import pathlib, time\nopen('{}', 'w').close()\nwhile not pathlib.Path('{}').exists(): time.sleep(0.02)"
    tiers = tuple(
        run.Tier(mine, 20, (run.Step("step", python(wait.format(mine, other))),), lane=mine)
        for mine, other in (("a", "b"), ("b", "a"))
    )
    monkeypatch.setattr(run, "TIERS", tiers)
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    assert run.main([]) == 0


def test_nothing_ran_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.summarise([run.Result("some", skipped=1, notes=["skipped the tier: x"])], 1.0, None) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"


def test_the_closing_line_sums_the_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    results = [run.Result("a", passed=2, skipped=1), run.Result("b", passed=3)]
    assert run.summarise(results, 1.0, run.TOTAL_QUOTA) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 passed, 0 failed, 1 skipped"
    assert run.summarise(results, run.TOTAL_QUOTA + 1, run.TOTAL_QUOTA) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "5 passed, 1 failed, 1 skipped"
    assert run.summarise([run.Result("a", passed=2, failed=1)], 1.0, None) == 1


def test_ctrl_c_leaves_no_child_behind(tmp_path: Path) -> None:
    # The step ignores the interrupt and has a child of its own: both must go.
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pids', 'w').write(str(child.pid)); time.sleep(600)\n"
    )
    driver = (
        "import sys; from pathlib import Path; from tests import processes, run\n"
        f"processes.ROOT = Path({str(tmp_path)!r}); processes.LOGS = processes.ROOT / 'logs'\n"
        "processes.GRACE_SECONDS = processes.TERMINATE_SECONDS = 0.2\n"
        f"run.TIERS = (run.Tier('some', 600, (run.Step('s', (sys.executable, '-c', {script!r})),)),)\n"
        "sys.exit(run.main([]))\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=root, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    grandchild = int((tmp_path / "pids").read_text() or 0)
    state = Path(f"/proc/{grandchild}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_lane_helps_with_what_only_computes_when_its_own_tiers_are_done() -> None:
    tiers = [run.Tier("a", 1, ()), run.Tier("b", 1, ()), run.Tier("e", 1, (), lane="waiting"), run.Tier("c", 1, ())]
    waiting = run.Waiting(tiers)

    def take(lane: str) -> str | None:
        tier = waiting.next(lane)
        return None if tier is None else tier.name

    assert [take("waiting"), take(run.COMPUTING), take("waiting")] == ["e", "a", "b"]
    assert [take(run.COMPUTING), take(run.COMPUTING), take("waiting")] == ["c", None, None]
    # The other way round it is not: two tiers on one node cluster at once would meet.
    assert run.Waiting(tiers[2:3]).next(run.COMPUTING) is None
