"""Prometheus with our rules, and what is said while it is away. The last file of the tier (conftest.py): rules take minutes to be healthy."""

from demo.kube import Kube, condition


def test_every_rule_is_healthy(main_job: Kube) -> None:
    def healthy() -> str:
        groups = main_job.read("monitoring", "prometheus-operated", "web", "/api/v1/rules")["data"]["groups"]
        ours = [rule for group in groups for rule in group["rules"] if group["name"].startswith("llmwarden/")]
        bad = [(rule["name"], rule["health"], rule.get("lastError")) for rule in ours if rule["health"] != "ok"]
        return "" if ours and not bad else f"{len(ours)} rules, not healthy: {bad}"

    # Rules are first evaluated half a minute after Prometheus has read them, those over days within another four minutes.
    main_job.wait("healthy rules", healthy, 420)


def test_prometheus_gone_is_said_and_the_last_figures_stay(main_job: Kube) -> None:
    kube = main_job
    before = kube.get("llmservice", "support-bot", "shop")["status"]
    assert before["latency"]
    kube.run("-n", "monitoring", "scale", "deployment", "prometheus-operator", "--replicas=0")
    kube.run("-n", "monitoring", "scale", "statefulset", "--all", "--replicas=0")
    try:

        def said() -> str:
            fresh = condition(kube.get("llmservice", "support-bot", "shop"), "MetricsFresh")
            return "" if fresh.get("status") == "False" else f"MetricsFresh is {fresh}"

        kube.wait("MetricsFresh=False", said, 180)
        after = kube.get("llmservice", "support-bot", "shop")["status"]
        assert after["latency"], "unknown is not zero: the last figures stay"
    finally:
        kube.run("-n", "monitoring", "scale", "statefulset", "--all", "--replicas=1")
        kube.run("-n", "monitoring", "scale", "deployment", "prometheus-operator", "--replicas=1")

    def back() -> str:
        fresh = condition(kube.get("llmservice", "support-bot", "shop"), "MetricsFresh")
        return "" if fresh.get("status") == "True" else f"MetricsFresh is {fresh}"

    kube.wait("MetricsFresh=True again", back, 240)
