"""One size from the first namespace to the last figure: made, converged, at rest, restarted, edited, moving for long, weighed.

The order matters: what stands still is measured before anything moves, and a restart can only be without writes where nothing is due.
"""

import argparse
import datetime as dt
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.operator import processes, services
from benchmarks.operator.beside import PrometheusOperator
from benchmarks.operator.plane import Plane
from benchmarks.operator.programs import ASKED, Ledger, Operator, Surroundings, ca_of
from benchmarks.operator.watches import RULES, Services
from llmwarden import names
from tests.ports import free_port

Say = Callable[[str], None]
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}
_PERCENTS: Final = ("98", "97")  # what an edit sets in turn
_WRITES_A_SECOND: Final = 10.0  # over all services: what is to be reached
_QUIET_SECONDS: Final = 65.0  # the operator may hold a change of figures back for a minute
_LOOK_SECONDS: Final = 5.0
_WEIGHED: Final = 100  # services whose stored size is looked at
_CHILDREN: Final = {
    "rules": "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules/" + names.PREFIX_ALERTS + "{}",
    "dashboard": "/api/v1/namespaces/{}/configmaps/" + names.PREFIX_DASHBOARD + "{}",
}


@dataclass
class Result:
    """All figures of one size. CPU in seconds, memory in MiB, sizes in kB (1,000 bytes)."""

    services: int
    namespaces: int
    parts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]


class Run:
    """One run of one size. `measure` returns what was found, also where a later part did not work (then with `fault`)."""

    def __init__(self, count: int, options: argparse.Namespace, say: Say) -> None:
        self._count, self._options, self._say = count, options, say
        self._accounts = processes.Accounts()
        self._result = Result(count, min(options.namespaces, count))
        self._patience = 240.0 + count * 1.2  # seconds for anything that goes through all services

    def measure(self) -> Result:
        """Run all of it."""
        began = time.monotonic()
        parts = self._result.parts
        with ExitStack() as stack:
            try:
                self._prepare(stack)
                for name, part in (
                    ("converge", self._converge),
                    ("rest", self._rest),
                    ("restart", self._restart),
                    ("moving", self._moving),
                    ("long", self._long),
                    ("stored", self._stored),
                ):
                    parts[name] = part()
                    parts[name]["changed_fields"] = self._seen.take_fields()
                    self._say(f"  {name}: {json.dumps(parts[name])}")
                    if self._options.profile:
                        self._operator.profile(self._folder(f"{self._options.profile}-{self._count}-{name}.txt"))
                if self._beside is not None:
                    parts["beside"] = self._beside.edits()
                    self._say(f"  beside: {json.dumps(parts['beside'])}")
            except RuntimeError as error:
                parts["fault"] = str(error)
                self._say(f"  did not work: {error}")
                self._keep_logs()
            parts["seconds"] = round(time.monotonic() - began)
        return self._result

    # The parts ------------------------------------------------------------------------------------------------------

    def _prepare(self, stack: ExitStack) -> None:
        options = self._options
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmwarden-bench-")))
        self._plane = stack.enter_context(Plane(self._scratch, self._result.namespaces))
        self._plane.prepare(shared=options.shared)
        self._accounts.pids |= self._plane.pids
        self._surroundings = Surroundings(
            self._count, self._result.namespaces, options.tick_seconds, self._plane.reporters
        )
        stack.callback(self._surroundings.stop)
        self._accounts.pids["surroundings"] = self._surroundings.pid
        self._ledger_port = free_port()
        self._kubeconfig = self._plane.kubeconfig(names.OPERATOR)
        self._token = self._plane.ledger_token()
        self._operator = self._start()
        stack.callback(self._stop_operator)
        self._operator.ready()
        self._wait(lambda: self._plane.secret(names.SECRET_LEDGER_TLS) is not None, 60, "the ledger's certificate")
        ledger = Ledger(self._scratch, self._plane.kubeconfig(names.LEDGER), self._ledger_port)
        stack.callback(ledger.stop)
        self._accounts.pids["ledger"] = ledger.pid
        ledger.ready()
        authority = self._plane.secret(names.SECRET_CA) or {}
        self._surroundings.connect(self._ledger_port, ca_of(authority))
        # Nothing is made before the operator has heard from the ledger: else every status would first say that it has not.
        self._wait(lambda: ledger.metric(ASKED) > 0, 60 + options.tick_seconds, "the operator asks the ledger")
        self._beside: PrometheusOperator | None = None
        if options.beside:
            self._beside = PrometheusOperator(self._plane, self._scratch)
            stack.callback(self._beside.stop)
            self._accounts.pids["prometheus-operator"] = self._beside.pid
        self._seen = Services(self._plane.api)
        stack.callback(self._seen.stop)

    def _stop_operator(self) -> None:
        self._operator.stop()  # the one that runs by then

    def _start(self) -> Operator:
        settings = {
            "LLMWARDEN_STATUS_SECONDS": str(self._options.tick_seconds),
            "BENCH_LEDGER_PORT": str(self._ledger_port),
            "BENCH_PROFILE": self._options.profile or "",
        }
        operator = Operator(self._scratch, self._kubeconfig, self._token, self._surroundings.url, **settings)
        self._accounts.pids["operator"] = operator.pid
        return operator

    def _converge(self) -> dict[str, Any]:
        """From the first service's creation until each has its status and its children."""
        count, namespaces = self._count, self._result.namespaces
        mark, writes = self._accounts.mark(), self._plane.mark()
        began = time.monotonic()
        self._plane.create(
            lambda item: services.PATH.format(item["metadata"]["namespace"]),
            (services.manifest(number, namespaces) for number in range(count)),
        )
        created = time.monotonic() - began
        self._surroundings.order(report=True)
        self._seen.wait(lambda: len(self._seen.converged) >= count, self._patience, "every service's status")
        used = self._accounts.since(mark)
        done = self._plane.writes(writes)
        self._check_children()
        if self._options.pods:
            self._plane.create(
                lambda item: f"/api/v1/namespaces/{item['metadata']['namespace']}/pods",
                (services.pod(of, namespaces, pod) for of in range(count) for pod in range(self._options.pods)),
            )
        return {
            "created_seconds": round(created, 1),
            "seconds": used["seconds"],
            "cpu": used,
            "operator_ms_a_service": round(1000 * used["operator"] / count, 2),
            "api_server_ms_a_service": round(1000 * used["kube-apiserver"] / count, 2),
            "writes": _counted(done),
            "not_true": _reasons(self._seen),
            **({"beside": self._beside.caught_up(began)} if self._beside is not None else {}),
        }

    def _rest(self) -> dict[str, Any]:
        """CPU while ticks go on and no figure moves, and what memory is held then."""
        settled = self._settle()
        writes = self._plane.mark()
        with self._measured(self._options.ticks * self._options.tick_seconds) as used:
            pass
        return {
            "settled_seconds": settled,
            "cores": self._cores(used),
            "cpu": used,
            "writes": _counted(self._plane.writes(writes)),
            "memory": self._operator.memory(),
            "api_server_memory": processes.memory(self._accounts.pids["kube-apiserver"]).resident,
        }

    def _restart(self) -> dict[str, Any]:
        """A new process over the same cluster: when it is ready, when it has looked at everything, and what it wrote."""
        del self._accounts.pids["operator"]
        began = time.monotonic()
        self._operator.stop()
        stopped = time.monotonic() - began
        writes = self._plane.mark()
        with self._measured(0) as used:
            self._operator = self._start()
            ready = self._operator.ready()
            passed = self._operator.passed(self._count, self._patience)
        # Two ticks more: what the first figures after a start would change.
        time.sleep(2 * self._options.tick_seconds)
        return {
            "stop_seconds": round(stopped, 2),
            "ready_seconds": round(ready, 2),
            "passed_seconds": round(passed, 2),
            "cpu": used,
            "writes": _counted(self._plane.writes(writes)),
            "memory": self._operator.memory(),
        }

    def _moving(self) -> dict[str, Any]:
        """CPU while a share of all figures moves at each tick, and how long edits take meanwhile."""
        self._surroundings.order(share=self._options.share)
        time.sleep(2 * self._options.tick_seconds)
        writes = self._plane.mark()
        with self._measured(self._options.ticks * self._options.tick_seconds) as used:
            pass
        found = {
            "share": self._options.share,
            "cores": self._cores(used),
            "cpu": used,
            "writes": _counted(self._plane.writes(writes)),
        }
        with self._measured(0) as editing:
            found["edits"] = self._edits()
        found["edits"]["cpu"] = editing
        found["memory"] = self._operator.memory()
        return found

    def _long(self) -> dict[str, Any]:
        """Writes while every figure moves at each tick, for long enough that each service has its turn more than once."""
        options = self._options
        seconds = options.long_seconds or max(180.0, 2.5 * self._count / _WRITES_A_SECOND)
        self._surroundings.order(share=1.0)
        time.sleep(2 * options.tick_seconds)
        mark = self._plane.mark()
        with self._measured(seconds) as used:
            pass
        events = self._plane.writes(mark)
        now = dt.datetime.now(dt.UTC)
        self._surroundings.order(share=0.0)
        ours = [event for event in events if event["objectRef"].get("subresource") == "status"]
        of_services = [event for event in ours if event["objectRef"]["resource"] == "llmservices"]
        each = Counter((event["objectRef"]["namespace"], event["objectRef"]["name"]) for event in of_services)
        counts = [each.get(name, 0) for name in self._seen.seen]
        ages = [(now - seen.as_of).total_seconds() for seen in self._seen.seen.values() if seen.as_of is not None]
        return {
            "measured_seconds": round(used["seconds"]),
            "status_writes_a_second": round(len(ours) / used["seconds"], 2),
            "of_services_a_second": round(len(of_services) / used["seconds"], 2),
            "most_in_a_second": _busiest_second(ours),
            "least_of_a_service": min(counts),
            "most_of_a_service": max(counts),
            "oldest_figures_seconds": round(max(ages)) if ages else None,
            "without_figures": self._count - len(ages),
            "cores": self._cores(used),
            "cpu": used,
            "memory": self._operator.memory(),
        }

    def _stored(self) -> dict[str, Any]:
        """What is stored of a service, in kB, as the API server answers it: of some services of each shape."""
        sizes: dict[str, dict[str, list[int]]] = {}
        for number in range(min(self._count, _WEIGHED)):
            namespace, name = services.place(number, self._result.namespaces)
            paths = {"resource": f"{services.PATH.format(namespace)}/{name}"}
            paths |= {what: path.format(namespace, name) for what, path in _CHILDREN.items()}
            for what, path in paths.items():
                answer = self._plane.api.http.get(path)
                if answer.is_error:
                    message = f"{path}: {answer.status_code}"
                    raise RuntimeError(message)
                sizes.setdefault(what, {}).setdefault(services.shape(number), []).append(len(answer.content))
        found: dict[str, Any] = {}
        for what, by_shape in sizes.items():
            every = [size for of in by_shape.values() for size in of]
            found[what] = {"mean": _kb(statistics.mean(every)), "largest": _kb(max(every))}
            found[what] |= {shape: _kb(statistics.mean(of)) for shape, of in by_shape.items()}
        return found

    # Helpers --------------------------------------------------------------------------------------------------------

    def _edits(self) -> dict[str, Any]:
        """Edit services one after another, and wait for each one's rules and status."""
        taken: list[float] = []
        of_rules: list[float] = []
        chosen = random.Random(1)  # noqa: S311 - a choice that is the same in each run
        times: Counter[int] = Counter()  # of each service: an edit that changes nothing would be none
        for _ in range(self._options.edits):
            number = chosen.randrange(self._count)
            name = services.place(number, self._result.namespaces)
            times[number] += 1
            wanted = services.objectives(number, _PERCENTS[times[number] % 2])
            time.sleep(chosen.uniform(0.1, 0.9))  # at any time between two ticks
            before = self._seen.rules[name]
            began = time.monotonic()
            answer = self._plane.api.http.patch(
                f"{services.PATH.format(name[0])}/{name[1]}", json={"spec": {"objectives": wanted}}, headers=_MERGE
            )
            if answer.is_error:
                message = f"an edit was refused: {answer.text[:500]}"
                raise RuntimeError(message)
            generation = answer.json()["metadata"]["generation"]
            self._seen.wait(lambda: self._seen.rules[name] > before, 120, f"the rules of {name}")  # noqa: B023 - at once
            of_rules.append(time.monotonic() - began)
            self._seen.wait(lambda: self._seen.seen[name].observed >= generation, 120, f"the status of {name}")  # noqa: B023 - at once
            taken.append(time.monotonic() - began)
        return {
            "count": len(taken),
            "p50": round(statistics.median(taken), 3),
            "p99": round(_quantile(taken, 0.99), 3),
            "most": round(max(taken), 3),
            "rules_p50": round(statistics.median(of_rules), 3),
            "rules_p99": round(_quantile(of_rules, 0.99), 3),
        }

    def _settle(self) -> float:
        """Wait until the operator has written nothing for a while; returns how long that took, -1 where it never came to that."""
        began = last = time.monotonic()
        mark = self._plane.mark()
        quiet = max(_QUIET_SECONDS, 1.5 * self._options.tick_seconds)
        end = began + 300.0 + 2 * self._count / _WRITES_A_SECOND
        while time.monotonic() < last + quiet:
            if time.monotonic() > end:
                return -1.0
            time.sleep(_LOOK_SECONDS)
            now = self._plane.mark()
            if self._plane.writes(mark):
                last = time.monotonic()
            mark = now
        return round(last - began, 1)

    @contextmanager
    def _measured(self, seconds: float) -> Iterator[dict[str, float]]:
        """Give what was used from here on for so many seconds, and by what is done within; filled in at the end."""
        used: dict[str, float] = {}
        mark = self._accounts.mark()
        yield used
        time.sleep(max(0.0, mark.at + seconds - time.monotonic()))
        used.update(self._accounts.since(mark))

    @staticmethod
    def _cores(used: dict[str, float]) -> float:
        return round(used["operator"] / used["seconds"], 4)

    def _check_children(self) -> None:
        """Raise RuntimeError unless every service has its rules and its dashboard."""
        wanted = {services.place(number, self._result.namespaces) for number in range(self._count)}
        for path, prefix in ((RULES, names.PREFIX_ALERTS), ("/api/v1/configmaps", names.PREFIX_DASHBOARD)):
            there = {
                (namespace, name.removeprefix(prefix))
                for namespace, name in self._plane.names_of(path, names.LABEL_SERVICE)
                if name.startswith(prefix)
            }
            missing = wanted - there
            if missing:
                message = f"{len(missing)} services have no {prefix}*: {sorted(missing)[:3]}"
                raise RuntimeError(message)

    def _wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                message = f"{what}: not within {seconds:.0f} s"
                raise RuntimeError(message)
            time.sleep(0.2)

    def _keep_logs(self) -> None:
        """Copy the processes' logs beside the figures."""
        for log in self._scratch.glob("*.log"):
            self._folder(f"{self._count}-{log.name}").write_bytes(log.read_bytes())

    def _folder(self, name: str) -> Path:
        """The path of a file beside the figures."""
        folder: Path = self._options.output.parent / "operator-logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def _reasons(seen: Services) -> dict[str, int]:
    """How many services have a condition that is not True, by condition and reason."""
    found = Counter(f"{kind}: {reason}" for of in seen.seen.values() for kind, reason in of.reasons.items())
    return dict(found.most_common(12))


def _counted(events: list[dict[str, Any]]) -> dict[str, int]:
    """Writes by verb and resource."""

    def what(event: dict[str, Any]) -> str:
        of = event["objectRef"]
        return f"{event['verb']} {of['resource']}" + (f"/{of['subresource']}" if of.get("subresource") else "")

    return dict(Counter(what(event) for event in events).most_common())


def _busiest_second(events: list[dict[str, Any]]) -> int:
    found = Counter(event["requestReceivedTimestamp"][:19] for event in events)
    return max(found.values(), default=0)


def _quantile(values: list[float], share: float) -> float:
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))]


def _kb(size: float) -> float:
    return round(size / 1000, 1)
