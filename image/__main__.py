"""`python -m image`: build the product's image, compile the proxy for this checkout, or print where a monitoring tool is."""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

from cluster.errors import ClusterError
from image import build, packages
from image import compile as compiling


def main(arguments: list[str] | None = None) -> int:
    """Run one command; prints the path of what it made. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m image", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build the image and print its archive's path")
    builder.add_argument("--tag", default=build.PRODUCT.tag)
    builder.add_argument("-o", "--output", type=Path, help="copy the archive there")
    commands.add_parser("compile", help="compile the proxy's hot modules and print the folder that goes on PYTHONPATH")
    for name in ("promtool", "amtool"):
        commands.add_parser(name, help=f"print where {name} is, fetching it when it is missing")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            path = build.build(dataclasses.replace(build.PRODUCT, tag=options.tag))
            if options.output:
                path = Path(shutil.copyfile(path, options.output))
        elif options.command == "compile":
            path = compiling.compiled()
        else:
            path = packages.tool(options.command)
    except ClusterError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
