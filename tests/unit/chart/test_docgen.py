"""The reference pages' maker."""

import re

import pytest
import yaml

from tools import docgen


def test_values_are_documented_where_they_have_a_comment() -> None:
    text = """\
# Head of the file, which is no entry's.

image:
  # Where from.
  # Two lines.
  repository: llmwarden
  plain: 1
# A mapping as a whole.
labels:
  inner: {a: "1"}
deep:
  er:
    # Quoted | pipe.
    flag: false
"""
    assert list(docgen.values(text)) == [
        ("image.repository", "llmwarden", "Where from. Two lines."),
        ("labels", "{inner: {a: '1'}}", "A mapping as a whole."),
        ("deep.er.flag", "false", "Quoted | pipe."),
    ]


def test_every_value_of_the_chart_is_documented() -> None:
    documented = {path for path, _, _ in docgen.values(docgen.VALUES.read_text())}

    def leaves(value: object, path: str) -> set[str]:
        if path in documented or not isinstance(value, dict) or not value:
            return {path}
        return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)}

    assert leaves(yaml.safe_load(docgen.VALUES.read_text()), "") == documented


def test_fields_show_lists_defaults_and_enums() -> None:
    schema = {
        "required": ["a"],
        "properties": {
            "a": {
                "type": "array",
                "items": {"type": "object", "properties": {"b": {"type": "string", "enum": ["x", "y"]}}},
            },
            "c": {"type": "integer", "default": 5, "description": "How many."},
            "d": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    assert list(docgen.fields(schema)) == [
        ("a[]", "list of object", "required", ""),
        ("a[].b", "`x` \\| `y`", "", ""),
        ("c", "integer", "`5`", "How many."),
        ("d", "map of string", "", ""),
    ]


def test_the_page_of_resources_is_narrow_and_no_text_in_it_becomes_markup() -> None:
    lines = docgen.resources().splitlines()
    assert max(map(len, lines)) <= 120
    for line in lines:
        # Of an item's second line and those after it: none may begin a list, a heading or a quotation by chance.
        assert not re.match(r"  +([-+*#>]|[0-9]+[.)]) ", line), line
    # Every field of every kind is there, once for each place in which it stands.
    for crd in map(yaml.safe_load, (path.read_text() for path in docgen.CRDS.glob("*.yaml"))):
        properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for path, *_ in (*docgen.fields(properties["spec"]), *docgen.fields(properties["status"])):
            assert any(line.startswith(f"- `{path}` (") for line in lines), path


def test_the_page_of_rights_has_every_rule_of_an_installation() -> None:
    page = " ".join(docgen.rbac().split())
    install = (docgen.ROOT / "manifests" / "install.yaml").read_text()
    roles = [item for item in yaml.safe_load_all(install) if item and item["kind"] in {"Role", "ClusterRole"}]
    assert len(roles) > 8
    for made in roles:
        section = page.split(f"### {made['kind']} `{made['metadata']['name']}` ")[1].split(" ### ")[0]
        for rule in made["rules"]:
            assert docgen.right(rule) in section, rule


def test_a_rule_without_a_reason_is_refused() -> None:
    text = "kind: Role\nrules:\n  - apiGroups: [apps]\n    resources: [deployments]\n    verbs: [get]\n"
    with pytest.raises(ValueError, match="no reason"):
        list(docgen.role(text))
    given = text.replace("rules:\n", "rules:\n  # Because.\n")
    assert [reason for _, reason in docgen.role(given)] == ["Because."]


def test_pages_are_up_to_date() -> None:
    assert docgen.main(["--check"]) == 0
