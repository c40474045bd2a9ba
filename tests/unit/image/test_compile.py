"""What is compiled means what is written: the rewriting of structs before mypyc sees them. The rest is shown by tests/proxy on compiled code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from image import compile as compiling

# Each struct and named tuple of our modules: how msgspec reads it, and how it behaves.
STRUCTS = """
import inspect, re, sys
import msgspec, msgspec.inspect
from llmwarden.proxy.dialects import found
import llmwarden.proxy.main
found()
for module in [name for name in sorted(sys.modules) if name.startswith("llmwarden.proxy") and "kept_structs" not in name]:
    for name, kind in sorted(vars(sys.modules[module]).items()):
        if not inspect.isclass(kind) or kind.__module__ != module or kind is msgspec.Struct:
            continue
        if issubclass(kind, msgspec.Struct):
            config = kind.__struct_config__
            print(module, name, config.frozen, config.gc, config.eq, config.array_like, kind.__struct_encode_fields__)
        if issubclass(kind, msgspec.Struct) or hasattr(kind, "_field_defaults"):
            told = str(msgspec.inspect.type_info(kind)) if "Callable" not in str(kind.__annotations__) else ""
            print(module, name, re.sub("0x[0-9a-f]+", "", told))
"""


def structs(source: Path) -> list[str]:
    """What a process says that runs the code in `source`."""
    said = subprocess.run(
        [sys.executable, "-c", STRUCTS],
        env={**os.environ, "PYTHONPATH": str(source)},
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stdout.splitlines()


def test_structs_are_rewritten_line_for_line_and_mean_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "operator"
    shutil.copytree(compiling.SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compiling.keep_structs(copy)
    changed = 0
    for module in compiling.MODULES:
        path = f"{module.replace('.', '/')}.py"
        before, after = (folder / path for folder in (compiling.SOURCES, copy))
        assert len(after.read_bytes().splitlines()) == len(before.read_bytes().splitlines())
        changed += after.read_bytes() != before.read_bytes()
    assert changed > 5
    known = structs(compiling.SOURCES)
    assert len(known) > 100
    assert structs(copy) == known


def test_the_trees_name_follows_what_is_compiled_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "operator"
    shutil.copytree(compiling.SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert compiling.tree(compiling.SOURCES, copy) == compiling.tree()
    (copy / "llmwarden/control/handlers/main.py").write_text("")
    (copy / "llmwarden/proxy/__pycache__").mkdir()
    (copy / "llmwarden/proxy/__pycache__/gate.cpython-311.pyc").write_bytes(b"x")
    assert compiling.tree(compiling.SOURCES, copy) == compiling.tree()
    with (copy / "llmwarden/proxy/money/gate.py").open("a") as file:
        file.write("#\n")
    assert compiling.tree(compiling.SOURCES, copy) != compiling.tree()
