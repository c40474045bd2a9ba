"""Compiles the proxy's hot modules with mypyc into a tree of their own, beside the sources and never among them.

`python -m image compile` makes and prints the folder under `build/compiled` for this checkout; put it on PYTHONPATH in place of `operator`
and the same program runs compiled. The image's build calls this file by itself (`compile.py SOURCE TARGET`), so it imports the standard
library only, and mypyc where it compiles. A module that cannot be compiled fails the command: nothing falls back.

A finished tree is named after what it was made from (sources, Python, mypy, this file): it is either right or not there.
"""

import ast
import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "operator"
TREES: Final = ROOT / "build" / "compiled"
_NEWEST: Final = 3
_HARMLESS: Final = "Treating generator comprehension as list"
_KEPT_STRUCTS: Final = "kept_structs"

# What runs for every request or chunk. All in one library: calls between compiled modules are C calls.
HOT: Final = {
    "bytes": ("http.http1", "http.endpoint", "http.server", "http.splice", "http.exchange", "http.upstream", "seam"),
    "calls": tuple(
        f"calls.{name}"
        for name in (
            "service", "route", "call", "admission", "settle", "signals", "rate_limits", "estimate", "credentials",
        )
    ),
    "money": tuple(
        f"money.{name}"
        for name in ("accounts", "gate", "journal", "lease", "ledger_view", "prices", "refusals", "tariff")
    ),
    "telemetry": (
        "record", "sinks", "clock",
        *(f"telemetry.{name}" for name in ("registry", "metrics", "trace", "otlp", "spans")),
    ),
    "dialects": tuple(
        f"dialects.{name}"
        for name in (
            "base", "shape", "prompt", "anthropic",
            # All of OpenAI's together: an interpreted class may not inherit from a compiled one.
            "openai", "openai_shared", "openai_chat", "openai_responses", "openai_embeddings",
        )
    ),
    # Not the package's `__init__`: its protocol has a default of `...`, which mypyc takes for a value.
    "framing": ("framing.sse", "framing.ndjson", "framing.eventstream", "framing.jsonarray"),
}  # fmt: skip
MODULES: Final = tuple(f"llmwarden.proxy.{name}" for names in HOT.values() for name in names)
# The rest stays as it is: main, settings, reporter, client, egress and aws run seldom; the other dialects are spoken by few (and Bedrock's
# use `msgspec.field`, which mypyc's class bodies do not know).
_READ: Final = (
    "proxy",
    "names.py",
    "contracts",
    "errors.py",
    "domain/cost.py",
)  # what compiled code takes types and constants from


def tree(sources: Path = SOURCES, content: Path | None = None) -> Path:
    """Where the compiled tree of these sources is, once it is made. `content`: a copy of them, which is read in their place."""
    total = hashlib.sha256(str(sources.resolve()).encode())  # what is not compiled is linked to
    files = [_script(sources), *(path for name in _READ for path in _files((content or sources) / "llmwarden" / name))]
    for path in files:
        data = path.read_bytes()
        total.update(b"%b:%d:" % (path.name.encode(), len(data)))
        total.update(data)
    total.update(f"{sys.version}:{metadata.version('mypy')}:{metadata.version('setuptools')}".encode())
    return TREES / total.hexdigest()[:16]


def compiled(sources: Path = SOURCES) -> Path:
    """The compiled tree, made when it is not there (a minute on two cores). Raises CalledProcessError when it cannot be."""
    TREES.mkdir(parents=True, exist_ok=True)
    with (TREES / ".lock").open("wb") as lock, tempfile.TemporaryDirectory(dir=TREES, prefix=".new-") as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Of a copy, so that the name is true even if somebody edits meanwhile.
        snapshot, fresh = Path(folder) / "sources", Path(folder) / "tree"
        shutil.copytree(sources, snapshot, ignore=shutil.ignore_patterns("__pycache__"))
        target = tree(sources, snapshot)
        if not target.exists():
            # A process of its own: mypyc works in the folder that it is started in, and ends its process when it finds a fault.
            subprocess.run(
                [sys.executable, "-P", str(_script(sources)), str(snapshot), str(fresh)], check=True, stdout=sys.stderr
            )
            _link(sources / "llmwarden", fresh / "llmwarden")
            fresh.rename(target)
        target.touch()
        for old in sorted(_trees(), key=lambda path: path.stat().st_mtime)[:-_NEWEST]:
            shutil.rmtree(old)
    return target


def _script(sources: Path) -> Path:
    """This file as the sources' own checkout has it: which modules are compiled differs between versions (`bench-datapath --baseline`)."""
    own = sources.parent / "image" / "compile.py"
    return own if own.is_file() else Path(__file__)


def _trees() -> Iterator[Path]:
    return (path for path in TREES.iterdir() if not path.name.startswith("."))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _link(source: Path, target: Path) -> None:
    """Put links to all that is not compiled beside what is: Python looks for a package's modules in one folder."""
    for path in source.iterdir():
        if path.name == "__pycache__":
            continue
        beside = target / path.name
        if beside.is_dir():
            _link(path, beside)
        else:
            beside.symlink_to(path.resolve())


class _Unions(ast.NodeTransformer):
    """`A | B` as `Union[A, B]`."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Such an operator; annotations have no other."""
        self.generic_visit(node)
        return ast.Subscript(ast.Name("Union"), ast.Tuple([node.left, node.right]))


def keep_structs(sources: Path) -> Path:
    """Rewrite, line for line, what mypyc would lose of structs and named tuples, in `sources`; returns the module that this needs.

    It evaluates most annotations to their bare class, or to `type` (a quoted one that is no union stays), and drops a class's keywords
    (msgspec inherits them: such a class gets a base that has them, in a module that is not compiled).
    """
    kept: dict[str, str] = {}  # the keywords as they are written: the base that has them
    for name in MODULES:
        path = sources / f"{name.replace('.', '/')}.py"
        text = path.read_text(encoding="utf-8")
        changes: list[tuple[ast.expr, str]] = []
        structs = {"msgspec.Struct", "NamedTuple"}
        needed: set[str] = set()
        for node in ast.parse(text).body:
            if not isinstance(node, ast.ClassDef) or structs.isdisjoint(ast.unparse(base) for base in node.bases):
                continue
            structs.add(node.name)
            fields = [item.annotation for item in node.body if isinstance(item, ast.AnnAssign)]
            changes += [(field, repr(ast.unparse(_Unions().visit(field)))) for field in fields]
            if node.keywords:
                keywords = ", ".join(ast.unparse(keyword) for keyword in node.keywords)
                base = kept.setdefault(keywords, f"Kept{len(kept)}")
                needed.add(base)
                changes.append((node.bases[0], base))
        lines = text.encode().split(b"\n")  # columns of `ast` are bytes
        for expression, new in sorted(
            changes, key=lambda change: (change[0].lineno, change[0].col_offset), reverse=True
        ):
            first, last = expression.lineno - 1, (expression.end_lineno or 0) - 1
            line = lines[first][: expression.col_offset] + new.encode() + lines[last][expression.end_col_offset :]
            lines[first : last + 1] = [line, *([b""] * (last - first))]
        if changes:
            # Of this form: mypyc forgets to declare a module that is imported on another import's line.
            names = ", ".join(("Union", *sorted(needed)))
            lines[lines.index(b"import msgspec")] += f"; from llmwarden.proxy.{_KEPT_STRUCTS} import {names}".encode()
        path.write_bytes(b"\n".join(lines))
    classes = [f"class {base}(msgspec.Struct, {keywords}):\n    pass\n" for keywords, base in kept.items()]
    module = sources / "llmwarden" / "proxy" / f"{_KEPT_STRUCTS}.py"
    module.write_text(
        "\n\n".join(["from typing import Union as Union\n\nimport msgspec\n", *classes]), encoding="utf-8"
    )
    return module


def build(sources: Path, target: Path) -> None:
    """Compile MODULES of `sources` into extension modules below `target`. Ends the process with a message when one cannot be."""
    from mypyc.build import mypycify  # noqa: PLC0415 - mypyc is not there where a tree is only looked for
    from setuptools import Distribution  # noqa: PLC0415 - the same
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415 - the same

    class Build(build_ext):  # type: ignore[misc] # setuptools ships no types
        """Compiles the files of a library side by side."""

        def build_extensions(self) -> None:
            """As many at once as there are cores: one compiler takes up to 300 MiB."""
            one: Callable[..., list[str]] = self.compiler.compile

            def compile_all(files: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                    return [name for names in pool.map(lambda file: one([file], **options), files) for name in names]

            self.compiler.compile = compile_all
            super().build_extensions()

    target = target.resolve()
    with tempfile.TemporaryDirectory() as work:
        own = Path(work) / "sources"
        shutil.copytree(sources, own)
        kept = keep_structs(own)
        os.chdir(own)  # tracebacks name files from here, and find their lines by PYTHONPATH
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                extensions = mypycify(
                    [
                        *("--config-file=", f"--cache-dir={os.devnull}", "--strict"),
                        *(
                            f"--python-executable={python}"
                            for python in filter(None, [os.environ.get("COMPILE_PYTHON")])
                        ),
                        *(f"{name.replace('.', '/')}.py" for name in MODULES),
                    ],
                    target_dir=f"{work}/c",
                    group_name="llmwarden",
                    multi_file=True,
                    opt_level="3",
                    debug_level="0",
                )
        finally:
            sys.stderr.write(said.getvalue())
        # What mypyc warns of and leaves out would be missed only when it is used; one thing it says is harmless.
        if doubts := [line for line in said.getvalue().splitlines() if "warning:" in line and _HARMLESS not in line]:
            raise SystemExit("\n".join(["not compiled as it is written:", *doubts]))
        command = Build(Distribution({"name": "llmwarden", "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(target), f"{work}/objects"
        command.ensure_finalized()
        command.run()
        shutil.copy(kept, target / kept.relative_to(own))


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
