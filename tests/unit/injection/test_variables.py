"""An application's variables after injection are those that it had, with the loopback reached without a proxy and its calls redirected."""

import copy
import random
from typing import Any

import pytest

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.injection.sidecar import decide
from llmwarden.injection.variables import readable
from llmwarden.proxy.http import egress
from llmwarden.settings import Settings
from tests.unit.injection.kubelet import expand, variables

LOOPBACK = {"127.0.0.1", "localhost"}
OURS = {"OPENAI_BASE_URL", "OPENAI_API_BASE"}


def service(**backend: Any) -> LLMService:
    return parse(
        LLMService,
        {
            "apiVersion": names.API_VERSION,
            "kind": "LLMService",
            "metadata": {"name": "bot", "namespace": "shop"},
            "spec": {
                "backend": {"type": "OpenAI", **backend},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            },
        },
    )


def injected(env: list[dict[str, Any]], env_from: list[dict[str, Any]] | None = None, **backend: Any) -> Any:
    """The application's container, and the proxy's, after injection; a second look changes nothing."""
    container: dict[str, Any] = {"name": "app", "image": "bot:1", "env": env, "envFrom": env_from or []}
    pod = {"metadata": {"name": "bot", "labels": {"app": "bot"}}, "spec": {"containers": [container]}}
    services = [service(**backend)]

    def look(given: dict[str, Any]) -> dict[str, Any]:
        return decide(given, services, Settings(), namespace="shop", namespace_labels={}, ca_pem="").pod

    once = look(copy.deepcopy(pod))
    assert look(copy.deepcopy(once))["spec"] == once["spec"]
    return once["spec"]["containers"][0], once["spec"]["initContainers"][0]


def hosts(value: str) -> set[str]:
    return {item.strip() for item in value.split(",") if item.strip()}


AROUND = {"name": "NO_PROXY", "valueFrom": {"configMapKeyRef": {"name": "network", "key": "around"}}}
NETWORK = {"network": {"around": "corp.example,10.0.0.0/8"}}


def test_what_refers_to_a_moved_list_is_still_expanded() -> None:
    app, _ = injected(
        [
            AROUND,
            {"name": "no_proxy", "value": "$(NO_PROXY)"},
            {"name": "JAVA_TOOL_OPTIONS", "value": "-Dhttp.nonProxyHosts=$(NO_PROXY)"},
            {"name": "TEXT", "value": "$$(NO_PROXY)"},
        ]
    )
    values = variables(app, NETWORK)
    assert hosts(values["NO_PROXY"]) == hosts(values["no_proxy"]) == {"corp.example", "10.0.0.0/8", *LOOPBACK}
    assert values["JAVA_TOOL_OPTIONS"].startswith("-Dhttp.nonProxyHosts=corp.example,10.0.0.0/8")
    assert "$(" not in values["JAVA_TOOL_OPTIONS"]
    assert values["TEXT"] == "$(NO_PROXY)"


def test_a_list_is_added_to_where_its_last_entry_is() -> None:
    app, _ = injected(
        [
            {"name": "NO_PROXY", "value": "first.example"},
            {"name": "FIRST", "value": "$(NO_PROXY)"},
            {"name": "MORE", "value": "more.example"},
            {"name": "NO_PROXY", "value": "$(FIRST),$(MORE)"},
        ]
    )
    values = variables(app, {})
    assert values["FIRST"] == "first.example"
    assert hosts(values["NO_PROXY"]) == {"first.example", "more.example", *LOOPBACK}


SETTINGS = [{"configMapRef": {"name": "settings"}}]
PROXY = "http://proxy.corp.example:3128"


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ([{"name": "HTTP_PROXY", "value": PROXY}], {}),
        ([{"name": "HTTP_PROXY", "value": PROXY}], {"NO_PROXY": "corp.example"}),
        ([{"name": "HTTP_PROXY", "value": PROXY}], {"no_proxy": "corp.example"}),
        ([{"name": "HTTP_PROXY", "value": PROXY}, {"name": "NO_PROXY", "value": "corp.example"}], {}),
        ([], {"HTTP_PROXY": PROXY}),
        ([], {"all_proxy": PROXY, "NO_PROXY": "corp.example", "no_proxy": "other.example"}),
        ([{"name": "No_Proxy", "value": "corp.example"}], {"Http_Proxy": PROXY}),
        ([{"name": "NO_PROXY", "value": "corp.example"}], {"HTTP_PROXY": PROXY, "no_proxy": "other.example"}),
    ],
)
def test_the_loopback_is_reached_without_a_proxy_whatever_brings_it(env: Any, settings: dict[str, str]) -> None:
    before = variables({"env": env, "envFrom": SETTINGS}, {"settings": settings})
    app, proxy = injected(env, SETTINGS)
    values = variables(app, {"settings": settings})
    for spelling in ("NO_PROXY", "no_proxy"):
        other = spelling.swapcase()
        said = before.get(spelling) or before.get(other) or before.get("No_Proxy") or ""
        assert hosts(values[spelling]) == hosts(said) | LOOPBACK
    # The proxy itself goes out the same way as the application did.
    given = {"env": [entry for entry in proxy["env"] if _plain(entry)]}
    ours = egress.proxies(variables(given, {"settings": settings}))
    wanted = egress.proxies(before)
    assert (ours.http, ours.https) == (wanted.http, wanted.https)
    assert set(wanted.direct) <= set(ours.direct)


def _plain(entry: dict[str, Any]) -> bool:
    return "fieldRef" not in entry.get("valueFrom", {})


def test_everything_or_nothing_stays_so() -> None:
    app, _ = injected([{"name": "NO_PROXY", "value": "*"}, {"name": "HTTP_PROXY", "value": PROXY}])
    assert variables(app, {})["NO_PROXY"] == "*"


def test_a_prefix_of_env_from_is_taken_off() -> None:
    app, _ = injected([], [{"configMapRef": {"name": "settings"}, "prefix": "NO_"}])
    assert hosts(variables(app, {"settings": {"PROXY": "corp.example"}})["NO_PROXY"]) == {"corp.example", *LOOPBACK}


def test_the_proxy_gets_the_way_out_by_references_too() -> None:
    env: list[dict[str, Any]] = [
        {"name": "PROXY_USER", "valueFrom": {"secretKeyRef": {"name": "corp", "key": "user"}}},
        {"name": "PATH", "value": "/nothing/of/theirs"},
        {"name": "HTTP_PROXY", "value": "http://$(PROXY_USER)@$(PROXY_HOST):3128"},
        {"name": "HTTPS_PROXY", "value": "$(HTTP_PROXY)"},
    ]
    _, proxy = injected(env, SETTINGS)
    given = {"env": [entry for entry in proxy["env"] if _plain(entry)]}
    values = variables(given, {"corp": {"user": "me"}, "settings": {"PROXY_HOST": "proxy.corp.example"}})
    assert values["HTTPS_PROXY"] == values["HTTP_PROXY"] == "http://me@proxy.corp.example:3128"
    assert "PATH" not in values
    assert "PROXY_USER" not in values


def test_what_is_put_together_of_the_pods_own_words_is_read() -> None:
    env = [
        {"name": "HOST", "value": "gateway.example"},
        {"name": "OPENAI_BASE_URL", "value": "https://$(HOST)/llm$$/v1/"},
        {"name": "CHAT", "value": "$(OPENAI_BASE_URL)chat/completions"},
    ]
    app, proxy = injected(env)
    values = variables(app, {})
    assert values["CHAT"] == "http://127.0.0.1:15100/v1/chat/completions"
    assert '"upstream":"https://gateway.example/llm$"' in expand(proxy["env"][0]["value"], {})


def test_references_to_references_do_not_grow_without_bound() -> None:
    env: list[dict[str, Any]] = [{"name": "A0", "value": "a" * 100}]
    env += [{"name": f"A{n}", "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(1, 60)]
    assert readable({"env": env}, "A59") is None
    injected([*env, {"name": "HTTP_PROXY", "value": "http://$(A59)"}])
    again: list[dict[str, Any]] = [{"name": "A", "value": "$(A)$(A)"}] * 60
    injected([*again, {"name": "HTTP_PROXY", "value": "$(A)"}])


@pytest.mark.parametrize("seed", range(200))
def test_every_variable_has_the_value_that_it_had_and_the_loopback(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a test's own
    known = ["NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "A", "B", "C", "D"]

    def words(*, host: bool) -> str:
        parts = [
            rng.choice(["x.example", "10.0.0.0/8", "$$", "$(", f"$({rng.choice(known)})", f"$$({rng.choice(known)})"])
        ]
        parts += [f"$({rng.choice(known)})"] * rng.randint(0, 1)
        return ("," if host else "-").join(parts)

    sources = {
        "settings": {key: f"{key.lower()}.settings" for key in known if rng.random() < 0.3},
        "more": {key: f"{key.lower()}.more" for key in known if rng.random() < 0.2},
    }
    env: list[dict[str, Any]] = []
    for _ in range(rng.randint(1, 8)):
        name = rng.choice(known)
        if rng.random() < 0.2 and sources["settings"]:
            key = rng.choice(sorted(sources["settings"]))
            env.append({"name": name, "valueFrom": {"configMapKeyRef": {"name": "settings", "key": key}}})
        else:
            env.append({"name": name, "value": words(host=name.upper() == "NO_PROXY")})
    env_from = [{"configMapRef": {"name": name}} for name in ("settings", "more") if rng.random() < 0.4]
    before = variables({"env": env, "envFrom": env_from}, sources)
    app, _ = injected(copy.deepcopy(env), env_from)
    after = variables(app, sources)
    added = {*LOOPBACK, "127.0.0.1"}
    for name, value in before.items():
        if name.upper() == "NO_PROXY":
            assert hosts(value) <= hosts(after[name])
            assert added <= hosts(after[name])
        elif name not in OURS:
            # A list that it refers to may have the loopback now.
            assert after[name].replace(",127.0.0.1,localhost", "").replace(",localhost", "") == value.replace(
                ",127.0.0.1,localhost", ""
            )
    assert not any(name.startswith(names.KEPT_PREFIX) and "$(LLMWARDEN" in value for name, value in after.items())
