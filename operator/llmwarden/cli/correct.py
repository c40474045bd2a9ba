"""`kubectl llm writeoff`, `release` and `corrections`: what the platform corrects in usage that was reported.

The arguments, the order that is made of them, and the text of the answer. Who asks the cluster is `main`.
"""

import argparse
import datetime as dt
import re
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from rich import box
from rich.markup import escape
from rich.table import Table

from llmwarden import names
from llmwarden.contracts.correction import Action, Correction, Corrections, Order
from llmwarden.domain import money

_AGO: Final = re.compile(r"([1-9][0-9]{0,4})(m|h|d|w)", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add(
    commands: Any, parent: argparse.ArgumentParser, run: Callable[[Action], Callable[..., Any]], shown: Any
) -> None:
    """Add the three commands. `run` makes what runs an action, `shown` lists what was done."""
    write_off = commands.add_parser(
        "writeoff",
        parents=[parent],
        help="take usage off a service's account",
        description=(
            "Write off usage that a service's pods reported and that was never used. Everything that is selected is taken off, or "
            "at most --usd or --tokens of it. It is shown as written off, with your reason, in every sum. For the platform team."
        ),
    )
    _arguments(write_off)
    amount = write_off.add_mutually_exclusive_group()
    amount.add_argument(
        "--usd", type=_usd, default=None, help="at most so many US dollars, the same share of everything"
    )
    amount.add_argument("--tokens", type=_count, default=None, help="at most so many input and output tokens")
    write_off.add_argument("--quarantined", action="store_true", help="only what is quarantined")
    write_off.set_defaults(run=run("WriteOff"))
    release = commands.add_parser(
        "release",
        parents=[parent],
        help="count quarantined usage in shared budgets",
        description=(
            "Release usage that is quarantined because it looked implausible, but was used. It counts in ClusterLLMBudgets "
            "from then on. For the platform team."
        ),
    )
    _arguments(release)
    release.set_defaults(run=run("Release"), usd=None, tokens=None, quarantined=False)
    corrections = commands.add_parser(
        "corrections",
        parents=[parent],
        help="list what was written off and released",
        description="List write-offs and releases, the newest first.",
    )
    where = corrections.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", help="the services' namespace (default: the context's)")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="show all namespaces")
    corrections.add_argument("-o", "--output", choices=["table", "json"], default="table")
    _ledger(corrections, "list LLMServices")
    corrections.set_defaults(run=shown)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="the name of the LLMService, which may be gone")
    parser.add_argument("-n", "--namespace", help="the service's namespace (default: the context's)")
    parser.add_argument("--reason", required=True, help="why; it is kept and shown")
    parser.add_argument(
        "--since", type=_instant, default="24h", help="from when: an instant or 90m, 24h, 7d (default: %(default)s)"
    )
    # Up to a day ahead: a forged bucket may be in the future.
    parser.add_argument(
        "--until", type=_instant, default=None, help="until when: an instant or 90m, 24h, 7d ago (default: all since)"
    )
    parser.add_argument("--model", default="", help="only this model")
    parser.add_argument(
        "--pod", default="", help="only what this pod reported (for as long as spending by pod is kept)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--id", default="", help="the order's id: the same order by the same id is done once")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    _ledger(parser, "writeoff or release llmservices")


def _ledger(parser: argparse.ArgumentParser, may: str) -> None:
    parser.add_argument(
        "--ledger-namespace",
        default=names.DEFAULT_NAMESPACE,
        help="the namespace where LLM Warden runs (default: %(default)s)",
    )
    parser.add_argument(
        "--service-account",
        default="",
        metavar="NAMESPACE/NAME",
        help=f"whose rights to ask with, which may {may}; you need the right to make tokens for it",
    )


def order(options: argparse.Namespace, action: Action, namespace: str, who: str, now: dt.datetime) -> Order:
    """Make the order of the options. `who` gives it, as far as the cluster told; "" where it did not."""
    end = options.until or now + dt.timedelta(days=2)
    return Order(
        contract=names.CONTRACT,
        id=options.id or str(uuid.uuid4()),
        action=action,
        service=f"{namespace}/{options.service}",
        start=options.since,
        end=end,
        reason=options.reason,
        model=options.model,
        pod=options.pod,
        quarantined_only=options.quarantined,
        picodollars=options.usd,
        tokens=options.tokens,
        on_behalf_of=who,
        dry_run=options.dry_run,
    )


def sentence(done: Correction) -> str:
    """Say what was done."""
    verb = {
        ("WriteOff", False): "Wrote off",
        ("WriteOff", True): "Would write off",
        ("Release", False): "Released",
        ("Release", True): "Would release",
    }[done.order.action, done.order.dry_run]
    amount = f"{money.human(done.picodollars)}, {done.tokens.input + done.tokens.output:,} tokens and {done.requests:,} calls"
    uncosted = f" ({done.uncosted_tokens:,} tokens without a price)" if done.uncosted_tokens else ""
    again = " It was done before, and was not done again." if done.repeated else ""
    return f"{verb} {amount}{uncosted} of {done.order.service}. Id: {done.order.id}.{again}"


def table(answer: Corrections) -> Table:
    """Make the table of what was done."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("At", "Done", "Service"):
        made.add_column(title, no_wrap=True)
    for title in ("Cost", "Tokens"):
        made.add_column(title, justify="right", no_wrap=True)
    for title in ("By", "Reason"):
        made.add_column(title, overflow="fold")
    for one in answer.corrections:
        made.add_row(
            f"{one.at:%Y-%m-%d %H:%M}",
            one.order.action,
            escape(one.order.service),
            money.human(one.picodollars),
            f"{one.tokens.input + one.tokens.output:,}",
            escape(one.order.on_behalf_of or one.by),
            escape(one.order.reason),
        )
    return made


def _instant(text: str) -> dt.datetime:
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return dt.datetime.now(dt.UTC) - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is not a time; write 2026-11-20T00:00:00Z, or 90m, 24h, 7d or 4w"
        raise argparse.ArgumentTypeError(message) from error
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _usd(text: str) -> int:
    try:
        picodollars = Decimal(text) * names.PICODOLLARS
    except InvalidOperation:
        picodollars = Decimal(0)
    if not picodollars.is_finite() or picodollars <= 0 or picodollars != int(picodollars):
        message = f"{text!r} is not an amount of US dollars, such as 12.50"
        raise argparse.ArgumentTypeError(message)
    return int(picodollars)


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,17}", text, re.ASCII):
        message = f"{text!r} is not a number of tokens"
        raise argparse.ArgumentTypeError(message)
    return int(text)
