"""The real vLLM (CPU, random weights) in a pod behind the proxy: our figures are its own."""

import re

from demo.kube import Kube
from tests.e2e.support import Stage, deployment, proxy_of, service

CALLS = 60
ADMIN = 15099


def sample(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that carry these labels."""
    total = 0.0
    for line in text.splitlines():
        match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)", line)
        if match and match[1] == name:
            own = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            if all(own.get(key) == value for key, value in labels.items()):
                total += float(match[3])
    return total


def scrape(kube: Kube, namespace: str, pod: str, port: int) -> str:
    """Return a pod's /metrics."""
    return kube.run("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics")


def test_tokens_and_requests_are_vllms_own_and_ttft_agrees(vllm: Stage) -> None:
    kube, ns = vllm.kube, vllm.namespace
    pod = kube.pods(ns, "app=vllm-chat")[0]
    assert proxy_of(pod)
    name = pod["metadata"]["name"]
    vllm.apply(
        service(ns, "vllm-chat", "http"),
        deployment(
            ns,
            "caller",
            program="client.py",
            env={
                "OPENAI_API_KEY": "dummy",
                "OPENAI_BASE_URL": f"http://vllm-chat.{ns}.svc/v1",
                "MODEL": "demo-llama",
                "RATE": "2",
                "CONCURRENCY": "2",
                "CALLS": str(CALLS),
                "STREAM_PERCENT": "100",
                "MAX_TOKENS": "24",
            },
        ),
    )
    vllm.rollout("caller")

    def done() -> str:
        requests = vllm.figures("caller")["requests"]
        served = int(requests.get("200", 0))
        assert set(requests) <= {"200"}, requests
        return "" if served >= CALLS else f"{served} of {CALLS} calls are done"

    kube.wait("the calls", done, 240, lambda: kube.trouble(ns))
    own = scrape(kube, ns, name, 8000)
    ours = scrape(kube, ns, name, ADMIN)

    def tokens(kind: str) -> float:
        return sample(ours, "gen_ai_client_token_usage_tokens_total", llmservice="chat", gen_ai_token_type=kind)

    assert sample(own, "vllm:request_success_total") == CALLS
    assert sample(ours, "llmwarden_requests_total", llmservice="chat", http_status_code="200") == CALLS
    assert tokens("input") == sample(own, "vllm:prompt_tokens_total")
    assert tokens("output") == sample(own, "vllm:generation_tokens_total")
    figures = vllm.figures("caller")["tokens"]
    assert figures == {"input": tokens("input"), "output": tokens("output")}

    theirs = sample(own, "vllm:time_to_first_token_seconds_sum") / sample(own, "vllm:time_to_first_token_seconds_count")
    count = sample(ours, "gen_ai_server_time_to_first_token_seconds_count", llmservice="chat")
    mine = sample(ours, "gen_ai_server_time_to_first_token_seconds_sum", llmservice="chat") / count
    assert count == CALLS
    assert abs(mine - theirs) <= max(0.005, 0.1 * theirs), f"proxy {mine * 1000:.1f} ms, vLLM {theirs * 1000:.1f} ms"


def test_the_engine_is_recognised_in_the_status(vllm: Stage) -> None:
    vllm.wait_condition("chat", "Instrumented", "True")
    status = vllm.llm("chat")["status"]
    assert status["workload"]["metered"] == 1
