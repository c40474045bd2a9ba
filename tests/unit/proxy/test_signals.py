"""What headers tell."""

import pytest

from llmwarden.contracts.ledger import Labels
from llmwarden.proxy.calls.signals import RATE_LIMITS, LabelBook, Retries, limit_value, read
from llmwarden.proxy.seam import Header


def headers(**values: str) -> list[Header]:
    return [(name.replace("_", "-").encode(), b"X", value.encode()) for name, value in values.items()]


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        (b"x-ratelimit-remaining-tokens", b"149984", 149984.0),
        (b"x-ratelimit-reset-tokens", b"6m0s", 1360.0),
        (b"x-ratelimit-reset-requests", b"20ms", 1000.02),
        (b"x-ratelimit-reset-requests", b"1h2m3.5s", 4723.5),
        (b"x-ratelimit-reset-requests", b"2", 1002.0),
        (b"x-ratelimit-reset-requests", b"1795257900", 1795257900.0),
        (b"anthropic-ratelimit-input-tokens-remaining", b"7", 7.0),
        (b"anthropic-ratelimit-requests-reset", b"1970-01-01T00:20:00Z", 1200.0),
        (b"x-ratelimit-remaining-tokens", b"-1", None),
        (b"x-ratelimit-remaining-tokens", b"9" * 999, float("9" * 32)),
        (b"x-ratelimit-reset-tokens", b"", None),
        (b"x-ratelimit-reset-tokens", b"nan", None),
        (b"x-ratelimit-reset-tokens", b"soon", None),
        (b"anthropic-ratelimit-requests-reset", b"T", None),
    ],
)
def test_rate_limits(name: bytes, value: bytes, number: float | None) -> None:
    got = limit_value(RATE_LIMITS[name], value, 1000.0)
    assert got == number if number is None else got == pytest.approx(number)


def test_which_limit_it_is() -> None:
    limit = RATE_LIMITS[b"anthropic-ratelimit-output-tokens-reset"]
    assert (limit.what, limit.reset) == ("output_tokens", True)


def test_retries_are_seen_by_what_clients_say_and_by_what_came_before() -> None:
    retries = Retries()
    assert not retries.expected()
    assert not retries.came_again(1, 1.0)  # the same question twice is no retry
    retries.failed(1, 2.0)
    assert retries.expected()
    assert retries.came_again(1, 30.0)
    assert not retries.came_again(2, 30.0)
    assert not retries.came_again(1, 99.0)
    assert retries.seen({}) == ""
    assert retries.seen(read(headers(x_stainless_retry_count="0"))) == ""
    assert retries.seen(read(headers(x_stainless_retry_count="2"))) == "header"
    assert retries.seen(read(headers(amz_sdk_request="attempt=1; max=3"))) == ""
    assert retries.seen(read(headers(amz_sdk_request="attempt=2; max=3"))) == "header"
    assert retries.seen(read(headers(idempotency_key="k"))) == ""
    assert retries.seen(read(headers(idempotency_key="k"))) == "idempotency_key"


def test_what_is_remembered_is_bounded() -> None:
    retries = Retries()
    for number in range(10_000):
        retries.failed(number, 0.0)
        retries.seen({b"idempotency-key": b"%d" % number})
    assert len(retries._failed) == 1000
    assert len(retries._keys) == 5000
    assert retries.came_again(9_999, 1.0)


def test_labels() -> None:
    book = LabelBook()
    default = Labels(team="core", cohort="all")
    assert book.of({}, default) is default
    told = read(headers(x_llmwarden_feature="se\x00arch é" + "x" * 99, x_llmwarden_team="web"))
    labels = book.of(told, default)
    assert labels == Labels("se_arch _" + "x" * 53, "web", "all")
    assert book.of(told, default) is labels
    for number in range(200):
        book.of(read(headers(x_llmwarden_feature=str(number))), default)
    assert book.of(read(headers(x_llmwarden_feature="new")), default) == Labels("other", "other", "other")
    assert book.of(told, default) is labels
