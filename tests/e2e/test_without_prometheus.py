"""What is said while Prometheus is away. The last file of the tier: rules take minutes to be healthy again, and nothing here waits for that."""

from demo.kube import Kube, condition


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
