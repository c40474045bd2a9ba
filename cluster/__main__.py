"""The command line: `python3 -m cluster up|status|kubectl|load-image|build|residue|down`."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from cluster import builds, machine, target
from cluster.errors import ClusterError
from cluster.lifecycle import DEFAULT_NAME, SHAPES, Cluster, build, kubectl
from cluster.progress import say


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Once only: a second signal must not stop the undoing that the first one began.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    say(f"{signal.Signals(number).name}: undoing what was begun")
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m cluster", description="A real Kubernetes without Docker.")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=os.environ.get("LLMWARDEN_CLUSTER", DEFAULT_NAME), help="of the cluster")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", parents=[named], help="make the cluster, or return at once if it is well")
    up.add_argument("--shape", choices=SHAPES, default="node", help="node: all of it, as root; control-plane: no root")
    commands.add_parser("status", parents=[named], help="what runs; exit status 1 if it is not well")
    run = commands.add_parser("kubectl", parents=[named], help="kubectl of the cluster's version")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    load = commands.add_parser("load-image", parents=[named], help="make archived images usable by pods")
    load.add_argument("archives", nargs="+", type=Path, metavar="TAR", help="a docker or OCI archive")
    make = commands.add_parser("build", help="only fill the cache")
    make.add_argument(
        "programs", nargs="*", metavar="NAME", help=f"of {', '.join(sorted(builds.BUILDS))}; default: all for a node"
    )
    commands.add_parser("residue", parents=[named], help="what of the cluster is on the machine now")
    commands.add_parser("down", parents=[named], help="remove all of it")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "build":
            if arguments.programs:
                print("\n".join(str(path) for path in builds.build(*arguments.programs)))
            else:
                build("node")
        case "up":
            print(f"export KUBECONFIG={Cluster(arguments.name, arguments.shape).up()}")
        case "status":
            return _status(Cluster(arguments.name))
        case "kubectl":
            chosen = target.chosen(arguments.name)
            words = arguments.arguments[arguments.arguments[:1] == ["--"] :]
            environment = {**os.environ, **chosen.environment()}
            os.execve(kubectl(), ["kubectl", *words], environment)  # noqa: S606 - no shell is wanted
        case "load-image":
            print("\n".join(target.chosen(arguments.name).load_images(arguments.archives)))
        case "residue":
            left = machine.residue(Cluster(arguments.name).state)
            print("\n".join(left) or "nothing")
            return 1 if left else 0
        case "down":
            Cluster(arguments.name).down()
    return 0


def _status(cluster: Cluster) -> int:
    for component, pid in cluster.status().items():
        print(f"{component:<26}{f'running ({pid})' if pid else 'not running'}")
    well = cluster.healthy()
    print(f"{'healthy' if well else 'not healthy'}; export KUBECONFIG={cluster.kubeconfig}; logs: {cluster.state.logs}")
    return 0 if well else 1


def main() -> None:
    """Run the command line."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        sys.exit(_main(_parser().parse_args()))
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
