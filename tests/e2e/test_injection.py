"""Injection by the real admission chain into real pods, and what is said where it is not as asked."""

from tests.e2e.support import Stage, deployment, env_spec, llm, port_spec, proxy_of, service

ENGINE_PORT = {"ports": [{"name": "http", "containerPort": 8000}]}
ENGINE_URL = "http://openai-simulator.providers.svc"


def test_a_port_is_taken_and_probes_by_name_and_services_by_name_still_work(fresh: Stage) -> None:
    fresh.apply(llm(fresh.namespace, "engine", port_spec("engine")))
    fresh.wait_injecting()
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1}
    fresh.apply(
        deployment(
            fresh.namespace, "engine", container={**ENGINE_PORT, "readinessProbe": probe, "livenessProbe": probe}
        ),
        service(fresh.namespace, "engine", "http"),
    )
    pod = fresh.rollout("engine")
    proxy = proxy_of(pod)
    assert pod["spec"]["initContainers"][0]["name"] == proxy["name"]
    assert proxy["restartPolicy"] == "Always"
    app = pod["spec"]["containers"][0]
    assert app["readinessProbe"]["httpGet"]["port"] == 8000
    assert [port["name"] for port in app["ports"]] == ["http-app"]
    # Through the Service, which targets the name, calls now run through the proxy.
    fresh.apply(
        deployment(
            fresh.namespace,
            "caller",
            program="client.py",
            env={
                "OPENAI_API_KEY": "dummy",
                "OPENAI_BASE_URL": f"http://engine.{fresh.namespace}.svc/v1",
                "MODEL": "demo-llama",
                "RATE": "5",
            },
        )
    )
    fresh.rollout("caller")

    def metered() -> str:
        text = fresh.kube.run(
            "get", "--raw", f"/api/v1/namespaces/{fresh.namespace}/pods/{pod['metadata']['name']}:15099/proxy/metrics"
        )
        lines = [line for line in text.splitlines() if line.startswith("llmwarden_requests_total{")]
        return "" if any('llmservice="engine"' in line for line in lines) else "no call was metered"

    fresh.kube.wait("calls through the proxy", metered, 60)
    fresh.wait_condition("engine", "Instrumented", "True")


def test_a_port_without_a_name_is_reported_with_a_remedy_and_the_pod_starts(fresh: Stage) -> None:
    fresh.apply(llm(fresh.namespace, "engine", port_spec("engine")))
    fresh.wait_injecting()
    fresh.apply(deployment(fresh.namespace, "engine", container={"ports": [{"containerPort": 8000}]}))
    pod = fresh.rollout("engine")
    assert not proxy_of(pod)
    said = fresh.wait_condition("engine", "Instrumented", "False")
    assert "http" in said["message"]
    unmetered = fresh.llm("engine")["status"]["workload"]["unmetered"]
    assert unmetered[0]["reason"]
    assert unmetered[0]["remedy"]


def test_a_service_that_targets_the_number_is_found_and_said(fresh: Stage) -> None:
    fresh.apply(
        llm(fresh.namespace, "engine", port_spec("engine")),
        service(fresh.namespace, "engine", 8000),
    )
    fresh.wait_injecting()
    fresh.apply(deployment(fresh.namespace, "engine", container=ENGINE_PORT))
    fresh.rollout("engine")

    said = fresh.wait_condition("engine", "Ready", "True", reason="ReadyWithGaps")
    assert "8000" in said["message"]
    assert "targetPort" in said["message"]


def test_two_services_that_claim_one_port_are_a_conflict_and_the_pod_starts(fresh: Stage) -> None:
    fresh.apply(
        llm(fresh.namespace, "first", port_spec("engine")),
        llm(fresh.namespace, "second", port_spec("engine")),
    )
    fresh.wait_injecting()
    fresh.apply(deployment(fresh.namespace, "engine", container=ENGINE_PORT))
    assert proxy_of(fresh.rollout("engine"))
    fresh.wait_condition("first", "Instrumented", "True")
    said = fresh.wait_condition("second", "Instrumented", "False")
    assert "first" in said["message"] or "port" in said["message"]


def test_several_services_in_one_pod_share_one_proxy(fresh: Stage) -> None:
    anthropic = {
        "backend": {"type": "Anthropic", "url": "http://anthropic.providers.svc"},
        "workload": {"selector": {"matchLabels": {"app": "both"}}},
    }
    fresh.apply(llm(fresh.namespace, "gpt", env_spec("both", ENGINE_URL)), llm(fresh.namespace, "claude", anthropic))
    fresh.wait_injecting()
    fresh.apply(
        deployment(fresh.namespace, "both", program="client.py", env={"OPENAI_API_KEY": "x", "MODEL": "gpt-4o-mini"})
    )
    pod = fresh.rollout("both")
    names = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
    assert str(names["OPENAI_BASE_URL"]).startswith("http://127.0.0.1:")
    assert str(names["ANTHROPIC_BASE_URL"]).startswith("http://127.0.0.1:")
    assert names["OPENAI_BASE_URL"] != names["ANTHROPIC_BASE_URL"]
    assert len(pod["spec"]["initContainers"]) == 1


def test_opting_out_counts_only_where_the_namespace_allows_it(fresh: Stage) -> None:
    fresh.apply(llm(fresh.namespace, "bot", env_spec("bot", ENGINE_URL)))
    fresh.wait_injecting()
    wish = {"llmwarden.io/inject": "false"}
    app = deployment(
        fresh.namespace,
        "bot",
        program="client.py",
        annotations=wish,
        env={"OPENAI_API_KEY": "x", "MODEL": "gpt-4o-mini"},
    )
    fresh.apply(app)
    assert proxy_of(fresh.rollout("bot")), "a pod cannot leave by itself"
    fresh.kube.run("label", "namespace", fresh.namespace, "llmwarden.io/allow-opt-out=true")

    def left() -> str:
        fresh.kube.run("-n", fresh.namespace, "delete", "pod", "-l", "app=bot", "--wait=true")
        return "it has a proxy" if proxy_of(fresh.rollout("bot")) else ""

    fresh.kube.wait("the pod is left alone", left, 90)
    fresh.wait_condition("bot", "Instrumented", "False")
    assert fresh.llm("bot")["status"]["workload"]["unmetered"]


def test_a_selector_that_matches_nothing_is_said(fresh: Stage) -> None:
    fresh.apply(llm(fresh.namespace, "ghost", env_spec("nobody", ENGINE_URL)))
    said = fresh.wait_condition("ghost", "Instrumented", "False")
    assert "workload.selector" in said["message"]


def test_pods_from_before_the_service_are_evicted_when_asked(fresh: Stage) -> None:
    app = deployment(fresh.namespace, "old", program="client.py", env={"OPENAI_API_KEY": "x", "MODEL": "gpt-4o-mini"})
    fresh.apply(app)
    before = fresh.rollout("old")
    assert not proxy_of(before)
    spec = env_spec("old", ENGINE_URL)
    fresh.apply(llm(fresh.namespace, "old", spec))
    fresh.wait_condition("old", "Instrumented", "False")
    assert fresh.llm("old")["status"]["workload"]["unmetered"][0]["remedy"]
    spec["workload"]["rollout"] = "Evict"
    fresh.apply(llm(fresh.namespace, "old", spec))
    fresh.wait_condition("old", "Instrumented", "True", seconds=180)
    assert proxy_of(fresh.rollout("old"))


def test_a_host_that_is_not_allowed_is_refused_by_a_condition(fresh: Stage) -> None:
    fresh.apply(llm(fresh.namespace, "stray", env_spec("stray", "https://collector.example.com")))
    said = fresh.wait_condition("stray", "Ready", "False")
    assert "collector.example.com" in said["message"]
