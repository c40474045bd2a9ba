"""`kubectl-llm`: on the PATH, kubectl runs it as `kubectl llm`. Exit status 1 with a sentence where something does not work."""

import argparse
import asyncio
import datetime as dt
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import msgspec
from rich.console import Console

from llmwarden import __version__, kube, names
from llmwarden.cli import audit, cluster, correct, cost, explain, reconcile
from llmwarden.contracts.audit import KINDS
from llmwarden.contracts.correction import Action
from llmwarden.contracts.spend import DIMENSIONS, By, as_csv
from llmwarden.errors import NotFoundError, UnavailableError, WardenError

_SINCE: Final = re.compile(r"([1-9][0-9]{0,4})(m|h|d|w)", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = asyncio.run(options.run(options))
    except WardenError as error:
        sys.stderr.write(f"kubectl llm: {error}\n")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl llm", description="Show what LLM services use and cost, and what is wrong with them."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    connection = argparse.ArgumentParser(add_help=False)
    connection.add_argument("--kubeconfig", help="the kubeconfig file to use")
    connection.add_argument("--context", help="the context to use")
    _cost_arguments(
        commands.add_parser(
            "cost",
            parents=[connection],
            help="what was spent",
            description="Show what was spent, the most expensive first.",
        )
    )
    _reconcile_arguments(
        commands.add_parser(
            "reconcile",
            parents=[connection],
            help="compare what providers bill with what was counted",
            description="For each ProviderAccount and day, show what the provider bills and what was counted. Exits 1 if the newest day's figures differ.",
        )
    )
    _audit_arguments(
        commands.add_parser(
            "audit",
            parents=[connection],
            help="show who changed what",
            description="Show changes of budgets, prices and accounts, callers that the ledger refused, and usage that was held back or written off.",
        )
    )
    _explain_arguments(
        commands.add_parser(
            "explain",
            parents=[connection],
            help="show what is wrong with a service",
            description="Check one LLMService step by step, from its pods to its alerts, and say how to fix what is broken. Exits 1 if anything is.",
        )
    )
    correct.add(commands, connection, _correcting, _corrections)
    return parser


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_explain)
    parser.add_argument("service", help="the name of the LLMService")
    parser.add_argument("-n", "--namespace", help="the service's namespace (default: the context's)")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_audit)
    parser.add_argument("-n", "--namespace", default="", help="only this namespace (default: all, and the platform's)")
    parser.add_argument("--kind", choices=KINDS, default="", help="only this kind of entry")
    parser.add_argument(
        "--since", type=_since, default="24h", help="how far back to look: 90m, 24h, 7d, 4w (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="json is one object a line")
    _ledger_arguments(parser, f"list {names.RESOURCE_AUDIT}.{names.GROUP}")


def _cost_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_cost)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", help="the services' namespace (default: the context's)")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="show all namespaces")
    parser.add_argument("service", nargs="?", default="", help="the name of one LLMService")
    parser.add_argument(
        "--by",
        type=_dimensions,
        default=("service", "model"),
        help=f"what each line is about, such as service,model; up to four of {', '.join(DIMENSIONS)}",
    )
    parser.add_argument(
        "--since", type=_since, default="24h", help="how far back to look: 90m, 24h, 7d, 4w (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", choices=["table", "json", "csv"], default="table")
    _ledger_arguments(parser, "list LLMServices")


def _reconcile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_reconcile)
    parser.add_argument(
        "--days", type=_days, default=7, help="how many days to show, 35 at most (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", choices=["table", "json", "csv"], default="table")
    _ledger_arguments(parser, "list ProviderAccounts")


def _ledger_arguments(parser: argparse.ArgumentParser, may: str) -> None:
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


async def _reconcile(options: argparse.Namespace) -> int:
    system = options.ledger_namespace
    async with await kube.connect(options.kubeconfig, options.context) as client:
        ledger = await cluster.ledger_client(client, system, cluster.accounts(options.service_account, "", system))
        try:
            answer = await ledger.reconciliation(options.days)
        except NotFoundError as error:
            raise cluster.no_ledger(error) from error
    if options.output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
    elif options.output == "csv":
        sys.stdout.write(reconcile.as_csv(answer))
    else:
        console = _console()
        if not answer.accounts:
            console.print(
                "There is no ProviderAccount, so nothing is compared. docs/money.md explains how to create one."
            )
            return 0
        console.print(reconcile.table(answer))
        for sentence in reconcile.sentences(answer):
            console.print(sentence, markup=False)
    return 1 if reconcile.parts(answer) else 0


async def _audit(options: argparse.Namespace) -> int:
    given = {"from": options.since, "namespace": options.namespace, "kind": options.kind}
    system = options.ledger_namespace
    async with await kube.connect(options.kubeconfig, options.context) as client:
        accounts = cluster.accounts(options.service_account, options.namespace, system)
        ledger = await cluster.ledger_client(client, system, accounts)
        try:
            answer = await ledger.audit({name: value for name, value in given.items() if value})
        except NotFoundError as error:
            raise cluster.no_ledger(error) from error
    if options.output == "json":
        sys.stdout.write(audit.as_lines(answer))
        return 0
    console = _console()
    if not answer.entries:
        console.print(f"Nothing was recorded in the last {options.since}.")
        return 0
    console.print(audit.table(answer))
    if answer.more:
        console.print("There are older entries. Ask for a shorter time, a namespace or a kind.")
    return 0


def _correcting(action: Action) -> Callable[[argparse.Namespace], Awaitable[int]]:
    async def run(options: argparse.Namespace) -> int:
        namespace = options.namespace or cluster.default_namespace(options.kubeconfig, options.context)
        system = options.ledger_namespace
        async with await kube.connect(options.kubeconfig, options.context) as client:
            given = options.service_account or f"{system}/{names.CORRECTOR}"
            ledger = await cluster.ledger_client(client, system, cluster.accounts(given, namespace, system))
            order = correct.order(options, action, namespace, await cluster.whoami(client), dt.datetime.now(dt.UTC))
            try:
                done = await ledger.correct(order)
            except NotFoundError as error:
                raise cluster.no_ledger(error) from error
            except UnavailableError as error:
                message = f"{error} Nobody knows whether it was done: repeat the same command with --id {order.id}, --since {order.start.isoformat()} and --until {order.end.isoformat()}"
                raise UnavailableError(message) from error
        if options.output == "json":
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(done), indent=2).decode() + "\n")
        else:
            sys.stdout.write(correct.sentence(done) + "\n")
        return 0

    return run


async def _corrections(options: argparse.Namespace) -> int:
    namespace = options.namespace or cluster.default_namespace(options.kubeconfig, options.context)
    if options.all_namespaces:
        namespace = ""
    system = options.ledger_namespace
    async with await kube.connect(options.kubeconfig, options.context) as client:
        accounts = cluster.accounts(options.service_account, namespace, system)
        ledger = await cluster.ledger_client(client, system, accounts)
        try:
            answer = await ledger.corrections(namespace)
        except NotFoundError as error:
            raise cluster.no_ledger(error) from error
    if options.output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
    else:
        _console().print(correct.table(answer) if answer.corrections else "Nothing was corrected.")
    return 0


async def _explain(options: argparse.Namespace) -> int:
    namespace = options.namespace or cluster.default_namespace(options.kubeconfig, options.context)
    async with await kube.connect(options.kubeconfig, options.context) as client:
        item = await cluster.service(client, namespace, options.service)
    chain = explain.links(item)
    if options.output == "json":
        result = explain.to_json(f"{namespace}/{options.service}", chain)
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    else:
        console = _console()
        console.print(explain.table(chain))
        console.print(explain.summary(chain), style="bold")
    return 0 if explain.is_whole(chain) else 1


def _console() -> Console:
    """Into a file or a pipe nothing is folded."""
    return Console(width=None if sys.stdout.isatty() else 240)


async def _cost(options: argparse.Namespace) -> int:
    by = cast("tuple[By, ...]", options.by)
    namespace = options.namespace or cluster.default_namespace(options.kubeconfig, options.context)
    if options.all_namespaces:
        namespace = ""
    dimensions = by if options.output != "table" else cost.with_time(by, _span(options.since))
    query = {"by": ",".join(dimensions), "from": options.since}
    if namespace:
        query["namespace"] = namespace
    if options.service:
        query["service"] = f"{namespace}/{options.service}" if namespace else options.service
    system = options.ledger_namespace
    async with await kube.connect(options.kubeconfig, options.context) as client:
        ledger = await cluster.ledger_client(
            client, system, cluster.accounts(options.service_account, namespace, system)
        )
        try:
            spend = await ledger.spend(query)
        except NotFoundError as error:
            raise cluster.no_ledger(error) from error
    if options.output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(spend), indent=2).decode() + "\n")
    elif options.output == "csv":
        sys.stdout.write(as_csv(spend))
    else:
        console = _console()
        place = f"namespace {namespace}" if namespace else "all namespaces"
        gpu_table = cost.gpus(spend)
        if not spend.rows:
            console.print(f"Nothing was spent in {place} since {spend.start:%Y-%m-%d %H:%M} UTC.")
            if gpu_table is None:
                return 0
        else:
            console.print(cost.table(spend, by))
        if gpu_table is not None:
            console.print(gpu_table)
        console.print(f"[dim]{place}, {spend.start:%Y-%m-%d %H:%M} to {spend.end:%Y-%m-%d %H:%M} UTC[/dim]")
    return 0


def _dimensions(text: str) -> tuple[str, ...]:
    dimensions = tuple(text.split(","))
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown or len(set(dimensions)) != len(dimensions) or len(dimensions) > 4:  # noqa: PLR2004 - the ledger's five, less the time
        message = f"{text!r} is not a list of one to four of {', '.join(DIMENSIONS)}"
        raise argparse.ArgumentTypeError(message)
    return dimensions


def _days(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]?", text, re.ASCII) or int(text) > 35:  # noqa: PLR2004 - the ledger's limit
        message = f"{text!r} is not a number of days from 1 to 35"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _since(text: str) -> str:
    if not _SINCE.fullmatch(text):
        message = f"{text!r} is not a time; write 90m, 24h, 7d or 4w"
        raise argparse.ArgumentTypeError(message)
    return text


def _span(text: str) -> dt.timedelta:
    match = _SINCE.fullmatch(text)
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else dt.timedelta(days=1)


if __name__ == "__main__":
    sys.exit(main())
