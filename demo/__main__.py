"""`python -m demo up|down`: the main job of LLM Warden, shown on a real cluster (CLUSTER=local, kind or kubeconfig)."""

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
    """Run the whole demo; raises ClusterError where it does not show what it should."""
    progress = steps.Progress()
    progress.step("cluster and images, side by side (first time about 15 min on two cores, later under a minute)")
    kube, made = steps.cluster_with_images(chosen, engine)
    progress.step("monitoring: Prometheus Operator, Prometheus, Alertmanager")
    steps.install_monitoring(kube, made)
    progress.step("LLM Warden: operator, webhook, ledger")
    steps.install_warden(kube)
    steps.wait_warden(kube)
    progress.step("LLM services: support-bot, chat and trial, with budgets and prices")
    steps.apply_services(kube)
    steps.wait_injecting(kube)
    progress.step(f"workloads: applications with the openai client, and an engine ({engine})")
    steps.apply_workloads(kube, made, engine)
    steps.wait_workloads(kube, 600 if engine == "vllm" else 120)
    steps.wait_monitoring(kube)
    progress.step("waiting for the small budget of shop/trial to run out, and for its alert (about 30 s)")
    refusal = steps.wait_refusal(kube)
    print(f"\nThe client of shop/trial was told:\n  {refusal}")
    alert = steps.wait_alert(kube)
    print(f"\nThe alert that fired:\n  {alert['labels']['alertname']}: {alert['annotations'].get('summary', '')}")
    print(f"  {alert['annotations'].get('description', '')}\n")
    progress.step("waiting for figures in the status (up to a minute)")
    steps.wait_figures(kube)
    progress.step("comparing with what the application measured itself")
    # vLLM takes both cores while it starts, and an application that waits for a core measures that wait: let it leave the window.
    rows = steps.comparison(kube, 400 if engine == "vllm" else 120)
    print(
        f"\nshop/support-bot, the last minutes, measured by the application itself and by LLM Warden:\n{compare.table(rows)}\n"
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
  alias kubectl='{sys.executable} -m cluster kubectl --'        # where there is no kubectl
  kubectl get llm -A -w                                          # live
  kubectl -n shop describe llm support-bot                       # usage, latency, budgets, conditions
  kubectl -n shop logs deploy/trial -c app --tail=5              # what a refused client sees
  kubectl -n monitoring port-forward svc/prometheus-operated 9090
  kubectl -n monitoring logs deploy/alert-sink                   # alerts as a pager would get them
  make demo-down                                                 # remove all of it
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
    parser.add_argument("--name", default=os.environ.get("LLMWARDEN_CLUSTER") or DEFAULT_NAME, help="of the cluster")
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
        print("demo: interrupted; make demo goes on from here, make demo-down removes what there is", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
