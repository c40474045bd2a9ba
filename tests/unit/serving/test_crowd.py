"""Who may be connected, by counts alone: no sockets, and a clock that stands still."""

import pytest

from llmwarden.serving import crowd
from llmwarden.serving.crowd import CLOSED, Crowd, Guest


class Party:
    """A crowd with its clock, and who was sent away."""

    def __init__(self, most: int = 8, most_from_one: int = 4) -> None:
        self.now = 0.0
        self.gone: list[str] = []
        self.crowd = Crowd("test", most, most_from_one, lambda: self.now)
        self.guests: dict[str, Guest] = {}

    def come(self, name: str, address: str = "") -> bool:
        guest = self.crowd.enter(address or name)
        if guest is not None:
            self.guests[name] = guest
            guest.abort = lambda: self.gone.append(name)
        return guest is not None

    def prove(self, name: str) -> None:
        self.guests[name].prove()


def count(reason: str) -> float:
    return float(CLOSED.labels("test", reason)._value.get())


def test_an_address_s_own_strangers_make_room_for_its_next() -> None:
    party = Party()
    for number in range(6):
        assert party.come(f"a{number}", "a")
    assert party.gone == ["a0", "a1"]
    assert len(party.crowd) == 4


def test_the_address_with_the_most_strangers_makes_room_for_others() -> None:
    party = Party()
    assert party.come("api")
    for number in range(4):
        party.come(f"a{number}", "a")
    for number in range(3):
        party.come(f"b{number}", "b")
    assert party.come("c")
    assert party.gone == ["a0"]  # not the API server's, though it is the oldest


def test_from_many_addresses_the_oldest_stranger_goes() -> None:
    party = Party()
    for number in range(8):
        party.come(f"a{number}")
    party.come("api")
    party.prove("api")
    for number in range(100):
        party.come(f"b{number}")
    assert "api" not in party.gone
    assert party.gone[:3] == ["a0", "a1", "a2"]
    assert len(party.crowd) == 8


def test_of_those_that_proved_themselves_one_that_waits_makes_room_and_none_that_is_being_answered() -> None:
    party = Party()
    for number in range(8):
        party.come(f"a{number}", "api")
        party.prove(f"a{number}")
    full = count("full")
    assert not party.come("b")
    assert count("full") == full + 1
    party.guests["a3"].idle = lambda: True
    assert party.come("b")
    assert party.gone == ["a3"]


def test_an_address_that_opens_connections_fast_is_slowed_until_it_proves_itself() -> None:
    party = Party(10_000, 10_000)
    came = sum(party.come(f"a{number}", "a") for number in range(crowd.BURST + 50))
    assert came == crowd.BURST
    assert party.come("other")
    party.now += 1
    assert sum(party.come(f"later{number}", "a") for number in range(1000)) == crowd.PER_SECOND
    party.prove("a0")
    assert all(party.come(f"trusted{number}", "a") for number in range(1000))
    party.now += crowd.TRUSTED_SECONDS + 1
    assert sum(party.come(f"again{number}", "a") for number in range(1000)) == crowd.BURST


@pytest.mark.parametrize("proved", [True, False])
def test_who_leaves_is_forgotten(*, proved: bool) -> None:
    party = Party()
    party.come("a")
    if proved:
        party.prove("a")
    party.guests["a"].leave()
    party.guests["a"].leave()
    party.guests["a"].prove()
    party.guests["a"].close("head")
    assert (len(party.crowd), party.gone) == (0, [])


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    party = Party(20_000, 4)
    for number in range(crowd.ADDRESSES + 100):
        party.come(f"a{number}")
        party.prove(f"a{number}")
    assert len(party.crowd._rates) <= crowd.ADDRESSES
    assert len(party.crowd._trusted) <= crowd.ADDRESSES
