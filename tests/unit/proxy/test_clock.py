"""The ledger's clock in a pod whose own is wrong, or jumps."""

from llmwarden.proxy.clock import LedgerClock


class Pod:
    wall = 5000.0
    monotonic = 10.0

    def clock(self) -> LedgerClock:
        return LedgerClock(lambda: self.wall, lambda: self.monotonic)


def test_until_the_ledger_has_said_something_it_is_the_pods_own() -> None:
    pod = Pod()
    clock = pod.clock()
    assert clock() == 5000
    clock.told(9000)
    pod.wall, pod.monotonic = 1.0, 25.0  # the pod's clock jumps: nobody cares
    assert clock() == 9015


def test_of_readings_that_agree_the_latest_time_counts() -> None:
    pod = Pod()
    clock = pod.clock()
    clock.told(9000)
    pod.monotonic += 5
    clock.told(9004.5)  # half a second on its way
    assert clock() == 9005
    clock.told(9005.3)
    assert clock() == 9005.3


def test_a_ledger_whose_clock_was_set_is_followed_either_way() -> None:
    pod = Pod()
    clock = pod.clock()
    clock.told(9000)
    clock.told(9000 + 3600)
    assert clock() == 12600
    clock.told(9000)
    assert clock() == 9000
