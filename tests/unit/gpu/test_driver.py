"""When the library is asked again: pauses, by a clock of the test's own. The library itself is replaced; test_exporter has the stub."""

import pynvml
import pytest

from llmwarden.gpu.nvml import LONGEST_PAUSE, Driver


def test_a_driver_that_is_away_is_asked_again_after_ever_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[float] = []

    def init() -> None:
        asked.append(now[0])
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    driver = Driver(retry_seconds=10.0, clock=lambda: now[0])
    for second in range(300):
        now[0] = float(second)
        assert "Driver Not Loaded" in driver.read().problem
    assert asked == [0, 10, 30, 70, 130, 190, 250]
    assert LONGEST_PAUSE == 60
