"""`python -m demo up|down`: shows LLM Warden on a real cluster (CLUSTER=local, kind or kubeconfig)."""

import argparse
import os
import signal
import sys
from types import FrameType

from cluster import target
from cluster.errors import ClusterError
from cluster.lifecycle import DEFAULT_NAME
from demo import compare, steps
from demo.kube import DemoError, Kube


def up(chosen: target.Target, engine: str) -> None:
    """Run the whole demo; raises ClusterError if a step fails or the figures differ too much."""
    progress = steps.Progress()
    progress.step(
        "start the cluster and build the images (about 15 min the first time on two cores, later less than a minute)"
    )
    kube, made = steps.cluster_with_images(chosen, engine)
    progress.step("install monitoring: Prometheus Operator, Prometheus, Alertmanager")
    steps.install_monitoring(kube, made)
    progress.step("install LLM Warden: operator, webhook, ledger")
    steps.install_warden(kube)
    steps.wait_warden(kube)
    progress.step("apply the LLM services: support-bot, chat and trial, with budgets and prices")
    steps.apply_services(kube)
    steps.wait_injecting(kube)
    progress.step(f"start the workloads: applications with the openai client, and an engine ({engine})")
    steps.apply_workloads(kube, made, engine)
    steps.wait_workloads(kube, 600 if engine == "vllm" else 120)
    steps.wait_monitoring(kube)
    progress.step("wait until the small budget of shop/trial is used up and its alert fires (about 30 s)")
    refusal = steps.wait_refusal(kube)
    print(f"\nThe client of shop/trial received:\n  {refusal}")
    alert = steps.wait_alert(kube)
    print(f"\nThe alert that fired:\n  {alert['labels']['alertname']}: {alert['annotations'].get('summary', '')}")
    print(f"  {alert['annotations'].get('description', '')}\n")
    progress.step("wait for figures in the status (up to a minute)")
    steps.wait_figures(kube)
    progress.step("compare LLM Warden's figures with the application's own measurements")
    # vLLM takes both cores while it starts, and an application that waits for a core measures that wait: let it leave the window.
    rows = steps.comparison(kube, 400 if engine == "vllm" else 120)
    print(
        f"\nshop/support-bot in the last minutes, as measured by the application and by LLM Warden:\n{compare.table(rows)}\n"
    )
    if not all(row.agrees() for row in rows):
        message = (
            f"LLM Warden's figures differ by more than {compare.TOLERANCE_PERCENT:.0f} % from the application's own."
        )
        raise DemoError(message)
    progress.step("done")
    print(f"\n$ kubectl get llm -A -o wide\n{steps.table(kube)}")
    print(_where_next(kube))


def _where_next(kube: Kube) -> str:
    return f"""Where to look next:
  export KUBECONFIG={kube.kubeconfig}
  alias kubectl='{sys.executable} -m cluster kubectl --'        # if kubectl is not installed
  kubectl get llm -A -w                                          # watch the figures change
  kubectl -n shop describe llm support-bot                       # usage, latency, budgets, conditions
  kubectl -n shop logs deploy/trial -c app --tail=5              # what a refused client sees
  kubectl -n monitoring port-forward svc/prometheus-operated 9090
  kubectl -n monitoring logs deploy/alert-sink                   # alerts as a pager would receive them
  make demo-down                                                 # remove everything
"""


def down(chosen: target.Target) -> None:
    """Remove the cluster if it is ours, else what the demo applied."""
    if isinstance(chosen, target.External):
        steps.remove(Kube(chosen.kubeconfig()))
    else:
        chosen.down()


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("--engine", choices=steps.ENGINES, default=os.environ.get("ENGINE") or "simulator")
    parser.add_argument(
        "--name", default=os.environ.get("LLMWARDEN_CLUSTER") or DEFAULT_NAME, help="name of the cluster"
    )
    options = parser.parse_args(arguments)
    for each in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell starts its background jobs with it ignored
        signal.signal(each, _interrupted)
    try:
        chosen = target.chosen(options.name)
        if options.command == "up":
            up(chosen, options.engine)
        else:
            down(chosen)
    except ClusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "demo: interrupted. `make demo` continues from here, `make demo-down` removes everything.", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
