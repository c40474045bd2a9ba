"""Write the reference pages from their sources: `python -m tools.docgen [--check]`.

`docs/resources.md` comes from `crds/` (which come from the pydantic models), `docs/settings.md` from the comments of the chart's
`values.yaml`, `docs/rbac.md` from the comments of its roles: pages that nobody has to remember to keep true.
"""

import argparse
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CRDS = ROOT / "crds"
VALUES = ROOT / "charts" / "llmwarden" / "values.yaml"
RESOURCES = ROOT / "docs" / "resources.md"
SETTINGS = ROOT / "docs" / "settings.md"
TEMPLATES = ROOT / "charts" / "llmwarden" / "templates"
RBAC = ROOT / "docs" / "rbac.md"
COMPONENTS = ("operator", "webhook", "ledger", "users")
ORDER = ("LLMService", "LLMBudget", "ClusterLLMBudget", "ModelPrice", "ProviderAccount")

WIDTH = 120

_ENTRY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?: (?P<value>.*))?$")


def cell(text: str) -> str:
    """Return `text` as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, type, default, description) of every field below a structural schema, in its order."""
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        inner = field.get("items", field)
        kind = field.get("type", "any")
        if field.get("x-kubernetes-int-or-string"):
            kind = "integer or string"
        elif kind == "array":
            here, kind = f"{here}[]", f"list of {inner.get('type', 'any')}"
        if inner.get("enum"):
            kind = " \\| ".join(f"`{value}`" for value in inner["enum"])
        elif isinstance(field.get("additionalProperties"), dict):
            kind = f"map of {field['additionalProperties'].get('type', 'any')}"
        default = "required" if name in required else ""
        if "default" in field:
            default = (
                f"`{yaml.safe_dump(field['default'], default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"
            )
        yield here, kind, default, str(field.get("description", ""))
        below = inner.get("properties") and inner
        if not below and isinstance(field.get("additionalProperties"), dict):
            below, here = field["additionalProperties"], f"{here}.*"
        if below:
            yield from fields(below, here)


def rules(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, message) of every CEL rule with a message of its own."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "message" in rule:
            yield path or ".", str(rule["message"])
    for name, field in schema.get("properties", {}).items():
        yield from rules(field, f"{path}.{name}" if path else name)
    if isinstance(schema.get("items"), dict):
        yield from rules(schema["items"], f"{path}[]")


LONGEST_DEFAULT = 80  # characters; a longer one is read in values.yaml


def paragraph(text: str) -> list[str]:
    """Return the lines of a paragraph that is no wider than `WIDTH`."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def item(text: str) -> list[str]:
    """Return the lines of one item of a Markdown list, no wider than `WIDTH`."""
    return textwrap.wrap(f"- {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def field_items(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a list of every field below a structural schema; a default is in the description."""
    for path, kind, _, text in fields(schema):
        plain = kind.replace("\\|", "|")  # escaped for a cell of a table
        yield from item(f"`{path}` ({plain}): {text}")


def resources() -> str:
    """Return the page about the five kinds."""
    crds = {
        crd["spec"]["names"]["kind"]: crd for crd in map(yaml.safe_load, (p.read_text() for p in CRDS.glob("*.yaml")))
    }
    lines = [
        "# Resources",
        "",
        *paragraph(
            "The fields of the five kinds, with type, meaning, default and an example. `python -m tools.docgen` makes this page "
            "from `crds/`: do not edit it. Whole resources are in `manifests/samples/`. In a path, `[]` stands for an item of a list."
        ),
    ]
    for kind in ORDER:
        spec = crds[kind]["spec"]
        short = ", ".join(spec["names"].get("shortNames", ()))
        (version,) = spec["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        lines += ["", f"## {kind}", "", *paragraph(str(schema.get("description", "")))]
        lines += [
            "",
            f"{spec['scope']}; `kubectl get {short or spec['names']['plural']}`; `{spec['group']}/{version['name']}`.",
        ]
        for part in ("spec", "status"):
            if part not in schema["properties"]:
                continue
            lines += ["", f"### {kind} {part}", "", *field_items(schema["properties"][part])]
        messages = dict.fromkeys(rules(schema))
        if messages:
            lines += ["", f"### What is refused in a {kind}", ""]
            lines += ["The API server refuses a value with these messages, by field.", ""]
            for path, message in messages:
                lines += item(f"`{path}`: {message}")
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Return the page about the chart's values: a list for each of its top-level values."""
    lines = [
        "# Settings",
        "",
        *paragraph(
            "Every value of the chart `charts/llmwarden`, made from the comments in its `values.yaml` by "
            "`python -m tools.docgen`; do not edit. A value that the chart does not know, or of the wrong type, is refused by "
            "`values.schema.json`."
        ),
    ]
    group = ""
    for path, default, text in values(VALUES.read_text()):
        top = path.partition(".")[0]
        if top != group:
            group = top
            lines += ["", f"## {top}", ""]
        shown = default if len(default) <= LONGEST_DEFAULT else ""
        lines += item(f"`{path}`" + (f" (`{shown}`)" if shown else "") + f": {text}")
    return "\n".join(lines) + "\n"


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, default, comment) of every commented entry of a values.yaml; a commented mapping is one entry."""
    parsed = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    inside: int | None = None  # indentation of the commented mapping that we are in
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        entry = _ENTRY.match(line)
        if entry is None:
            comment = []
            continue
        indent = len(entry["indent"])
        path = [*(part for part in path if part[0] < indent), (indent, entry["key"])]
        if inside is not None and indent > inside:
            continue
        inside = None
        if comment:
            value = parsed
            for _, key in path:
                value = value[key]
            dotted = ".".join(key for _, key in path)
            default = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
            yield dotted, default.removesuffix("...\n").strip(), " ".join(comment)
            inside = indent
        comment = []


def rbac() -> str:
    """Return the page about rights: each rule of each role, with its reason. Raises ValueError where a rule has none."""
    lines = [
        "# RBAC",
        "",
        *paragraph(
            "Every right that the chart gives, and why, made from the comments of its roles by `python -m tools.docgen`; do not edit. "
            "A ClusterRole holds in all namespaces, a Role in the namespace of the release. [SECURITY.md](../SECURITY.md) says what each "
            "process is trusted with."
        ),
    ]
    for component in COMPONENTS:
        lines += ["", f"## {component.capitalize()}"]
        for text in (TEMPLATES / f"rbac-{component}.yaml").read_text().split("\n---\n"):
            kind = re.search(r"^kind: (Role|ClusterRole)$", text, re.MULTILINE)
            name = re.search(r"^  name: (\S+)$", text, re.MULTILINE)
            if kind is None or name is None:
                continue
            lines += ["", f"### {kind[1]} `{name[1]}`", ""]
            for reason, rules in itertools.groupby(role(text), key=lambda given: given[1]):
                lines += item(f"{'; '.join(right(rule) for rule, _ in rules)}: {reason}")
    return "\n".join(lines) + "\n"


def role(text: str) -> Iterator[tuple[dict[str, list[str]], str]]:
    """Yield each rule of a role's template, and the comment that stands before it, or before the rules that it is one of, or the role."""
    head, _, rules = text.partition("\nrules:\n")
    reason = " ".join(line.lstrip("# ") for line in head.splitlines() if line.startswith("# "))
    condition = ""
    comment: list[str] = []
    rule: list[str] = []
    for line in [*rules.splitlines(), ""]:
        stripped = line.strip()
        if rule and (not stripped or stripped.startswith(("#", "- ", "{{"))):
            if not reason:
                message = f"no reason is given for {rule}"
                raise ValueError(message)
            yield yaml.safe_load("\n".join(rule))[0], f"{reason} Only if {condition} is set." if condition else reason
            rule = []
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif stripped.startswith(("{{- if", "{{- with")):
            condition = " or ".join(f"`{name}`" for name in re.findall(r"\.Values\.([A-Za-z.]+)", stripped))
        elif stripped.startswith("{{- end"):
            condition = ""
        elif stripped:
            reason = " ".join(comment) or reason
            comment = []
            rule.append(line)


def right(rule: dict[str, list[str]]) -> str:
    """Say what a rule allows."""
    groups = [group for group in rule.get("apiGroups", ()) if group]
    what = ", ".join(f"`{name}`" for name in (*rule.get("resources", ()), *rule.get("nonResourceURLs", ())))
    which = f" (`{', '.join(groups)}`)" if groups else ""
    only = rule.get("resourceNames")
    names = f", only {', '.join(f'`{name}`' for name in only)}" if only else ""
    return f"**{', '.join(rule['verbs'])}** {what}{which}{names}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` say which are out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.docgen")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    options = parser.parse_args(arguments)
    stale = 0
    for path, text in ((RESOURCES, resources()), (SETTINGS, settings()), (RBAC, rbac())):
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        sys.stdout.write(
            f"{path.relative_to(ROOT)} {'is out of date: make generate' if options.check else 'written'}\n"
        )
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
