"""What of a report can be taken."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.http import intake
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import report

numbers = st.integers(-(2**70), 2**70)
rows = st.builds(
    wire.Row,
    service=st.sampled_from(["bot", "", "A", "x" * 254]),
    provider=st.text(max_size=300),
    model=st.text(max_size=300),
    price_id=st.none() | st.text(max_size=5),
    bucket=st.sampled_from([BUCKET, BUCKET + 1, -900, BUCKET + 900 * 200]),
    requests=numbers,
    errors=numbers,
    estimated=numbers,
    tokens=st.builds(wire.Tokens, *([numbers] * 5)),
)


def known(_: str) -> bool:
    return True


def test_labels_are_kept_as_they_were_sent_however_many() -> None:
    """Two that became one "other" would be merged by maximum, where their sum is meant."""
    sent = [
        wire.Row(
            "bot",
            "openai",
            "m",
            None,
            BUCKET,
            number,
            0,
            wire.Tokens(input=number),
            labels=wire.Labels(team=f"t{number}"),
        )
        for number in range(1000)
    ]
    taken, reasons = intake.take(report(*sent), BUCKET, known)
    assert taken.rows == tuple(sent)
    assert not reasons


@given(st.lists(rows, max_size=5))
def test_what_is_taken_is_taken_again_as_it_is(given_rows: list[wire.Row]) -> None:
    once, reasons = intake.take(report(*given_rows), BUCKET, known)
    assert len(once.rows) + sum(reasons.values()) - reasons["changed"] == len(given_rows)
    twice, none = intake.take(once, BUCKET, known)
    assert twice == once
    assert not none
    for row in once.rows:
        assert 0 <= row.tokens.input <= intake.MAX_COUNT
        assert max(len(row.model), len(row.provider)) <= intake.LONGEST


def test_two_long_names_stay_two() -> None:
    plain = wire.Row("bot", "p", "", None, BUCKET, 1, 0, wire.Tokens())
    taken, _ = intake.take(
        report(*(wire.Row("bot", "p", "m" * 300 + end, None, BUCKET, 1, 0, plain.tokens) for end in "ab")),
        BUCKET,
        known,
    )
    first, second = taken.rows
    assert first.model != second.model


def test_a_service_that_never_was_is_left_out() -> None:
    ghost = wire.Row("ghost", "p", "m", None, BUCKET, 1, 0, wire.Tokens())
    taken, reasons = intake.take(report(ghost), BUCKET, lambda name: name == "bot")
    assert taken.rows == ()
    assert reasons == {"unknown_service": 1}


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\x1b[31mb", "a\u202eb", "a\u2028b", "a\x7fb", "a\x00b", "\ud800", "(other)", "a\u200bb", "x" * 9999],
)
@pytest.mark.parametrize("field", ["model", "provider", "tier", "team"])
def test_text_that_is_not_what_it_looks_like_keeps_a_hash(text: str, field: str) -> None:
    def sent(value: str) -> wire.Row:
        labels = {"labels": wire.Labels(team=value)} if field == "team" else {field: value}
        return msgspec.structs.replace(wire.Row("bot", "p", "m", None, BUCKET, 1, 0, wire.Tokens()), **labels)

    once, reasons = intake.take(report(sent(text), sent(text + "x")), BUCKET, known)
    assert reasons == {"changed": 2 if text != "(other)" else 1}
    first, second = ({"team": one.labels.team}.get(field) or getattr(one, field, "") for one in once.rows)
    assert first != second
    assert first.isprintable()
    assert first != names.FOLDED
    assert len(first) <= intake.LONGEST
    assert intake.take(once, BUCKET, known) == (once, {})
