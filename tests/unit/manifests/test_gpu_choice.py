"""Which GPU exporter a cluster gets: by facts, by outcome, and without flapping."""

import datetime as dt
from dataclasses import replace

import pytest

from llmwarden import names
from llmwarden import status as statuses
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.common import Condition
from llmwarden.api.v1alpha1.llmservice import InjectionStatus, LLMServiceStatus
from llmwarden.domain import conditions
from llmwarden.manifests import gpu_choice
from llmwarden.manifests.gpu_choice import Choice, ExporterPod, Facts, Foreign, Node, Unfit
from llmwarden.settings import Settings
from llmwarden.snapshot import Outcome, Snapshot
from tests.unit.status.helpers import snapshot

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
SETTINGS = Settings()
IMAGE = SETTINGS.dcgm_image
PLAIN = Facts(nodes=(Node("gpu-a", "amd64"), Node("gpu-b", "arm64")), pods=())
PULL = "ImagePullBackOff: Back-off pulling image"


def service(exporter: str | None) -> LLMService:
    spec = {"backend": {"type": "OpenAI"}, "workload": {"selector": {"matchLabels": {"app": "a"}}}}
    if exporter is not None:
        spec["gpu"] = {"exporter": exporter}
    return parse(LLMService, {"metadata": {"name": "a", "namespace": "models", "generation": 1}, "spec": spec})


def pod(node: str, *, ready: bool = False, minutes: float = 0, image: str = IMAGE, why: str = PULL) -> ExporterPod:
    return ExporterPod(
        f"exporter-{node}", node, image, ready, NOW - dt.timedelta(minutes=minutes), "" if ready else why
    )


def chosen(facts: Facts, *exporters: str | None, settings: Settings = SETTINGS) -> Choice:
    return gpu_choice.choose({one for one in exporters or ("Auto",) if one not in {None, "None"}}, settings, facts, NOW)


@pytest.mark.parametrize(
    ("exporters", "expected"),
    [
        ((None, "None"), (None, "NotAsked")),
        (("Auto",), ("DCGM", "CanRun")),
        (("NVML", "Auto"), ("NVML", "Asked")),
        (("NVML", "DCGM"), ("DCGM", "Asked")),
    ],
)
def test_what_services_ask_for(exporters: tuple[str | None, ...], expected: tuple[str | None, str]) -> None:
    found = chosen(PLAIN, *exporters)
    assert (found.exporter, found.reason) == expected


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(PLAIN, nodes=(Node("a", "amd64"), Node("p", "ppc64le"))), "Architecture"),
        (replace(PLAIN, nodes=(Node("a", "amd64", refuses=True),)), "NodeRefuses"),
        (replace(PLAIN, pods=(pod("gpu-a", minutes=10), pod("gpu-b", minutes=1))), "DCGMDidNotRun"),
        (Facts(), "NotKnown"),
    ],
)
def test_auto_takes_ours_where_nvidias_cannot_run(facts: Facts, reason: str) -> None:
    found = chosen(facts)
    assert (found.exporter, found.reason) == ("NVML", reason)
    assert found.why.endswith(".")


@pytest.mark.parametrize(
    "pods",
    [
        (),
        (pod("gpu-a", minutes=9.9),),  # it may still come
        (
            pod("gpu-a", ready=True, minutes=1),
            pod("gpu-b", minutes=600),
        ),  # it can run: what ails one node is that node's
        (pod("gpu-a", minutes=600, image="llmwarden:dev"),),  # our own is not the one on trial
    ],
)
def test_auto_keeps_nvidias_while_nothing_is_proved(pods: tuple[ExporterPod, ...]) -> None:
    assert chosen(replace(PLAIN, pods=pods)).exporter == "DCGM"


def test_an_outcome_is_noted_and_stays_until_the_note_goes_or_the_image_is_another() -> None:
    first = chosen(replace(PLAIN, pods=(pod("gpu-a", minutes=30),)))
    assert first.unfit == Unfit(IMAGE, "2026-11-21T12:00:00Z", f"pod exporter-gpu-a on node gpu-a: {PULL}")
    # The failed pods are gone, ours are ready: the note alone speaks.
    written = {"metadata": {"annotations": {names.ANNOTATION_DCGM_UNFIT: first.unfit.dump()}}}
    later = replace(PLAIN, pods=(pod("gpu-a", ready=True, image="llmwarden:dev"),), unfit=gpu_choice.unfit_of(written))
    assert chosen(later) == first
    assert names.ANNOTATION_DCGM_UNFIT in first.why
    assert chosen(replace(later, unfit=None)).exporter == "DCGM"
    assert chosen(later, settings=Settings(dcgm_image="mirror.example/dcgm-exporter:1")).exporter == "DCGM"
    # Asked for by name it is tried all the same.
    assert chosen(later, "DCGM").exporter == "DCGM"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"image": "x"}', '{"image": "x", "since": "y", "why": "z", "more": 1}']
)
def test_a_note_that_is_not_ours_is_none(text: str) -> None:
    assert gpu_choice.unfit_of({"metadata": {"annotations": {names.ANNOTATION_DCGM_UNFIT: text}}}) is None


def test_while_the_cluster_is_not_known_what_runs_goes_on() -> None:
    unfit = Unfit(IMAGE, "2026-11-21T12:00:00Z", "x")
    assert chosen(Facts(running="DCGM")).exporter == "DCGM"
    assert chosen(Facts(running="NVML", unfit=unfit)).unfit == unfit


def test_somebody_elses_is_used_whatever_is_asked() -> None:
    foreign = Foreign("gpu-operator", "nvidia-dcgm-exporter", {"app": "nvidia-dcgm-exporter"}, "metrics")
    for asked in ("Auto", "DCGM", "NVML"):
        found = chosen(replace(PLAIN, foreign=(foreign,)), asked)
        assert (found.exporter, found.foreign) == (None, foreign)
        assert "gpu-operator/nvidia-dcgm-exporter" in found.why


def test_nvidias_runtime_class_is_used_where_there_is_one() -> None:
    assert [chosen(replace(PLAIN, runtime_class=True), asked).runtime_class for asked in ("Auto", "NVML")] == [
        "nvidia"
    ] * 2
    assert chosen(PLAIN).runtime_class == ""


@pytest.mark.parametrize(
    ("facts", "expected", "said"),
    [
        (replace(PLAIN, nodes=()), ("False", "NoGPUNode"), "nvidia.com/gpu.present=true"),
        (replace(PLAIN, pods=(pod("gpu-a", ready=True), pod("gpu-b", ready=True))), ("True", "CanRun"), "NVIDIA's"),
        (replace(PLAIN, pods=(pod("gpu-a", ready=True), pod("gpu-b"))), ("False", "NotOnAllNodes"), PULL),
        (PLAIN, ("False", "NotOnAllNodes"), "0 of 2 GPU nodes; no pod runs on node gpu-a"),
        (Facts(), ("Unknown", "NotKnown"), "may not read"),
    ],
)
def test_a_service_is_told(facts: Facts, expected: tuple[str, str], said: str) -> None:
    found = gpu_choice.verdict(service("Auto"), chosen(facts), facts, SETTINGS)
    assert found is not None
    assert found[:2] == expected
    assert said in found[2]


def test_a_service_that_does_not_ask_is_told_nothing() -> None:
    for asked in (None, "None"):
        assert gpu_choice.verdict(service(asked), chosen(PLAIN), PLAIN, SETTINGS) is None


def test_a_pod_is_read_as_the_kubelet_reports_it() -> None:
    created = {"name": "x", "creationTimestamp": "2026-11-21T11:00:00Z"}
    spec = {"nodeName": "gpu-a", "containers": [{"image": IMAGE}]}
    crashing = {
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-21T11:30:00Z"}],
        "containerStatuses": [
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
                "lastState": {"terminated": {"exitCode": 1}},
            }
        ],
    }
    found = gpu_choice.pod_of({"metadata": created, "spec": spec, "status": crashing})
    assert found == ExporterPod(
        "x", "gpu-a", IMAGE, ready=False, since=NOW - dt.timedelta(minutes=30),
        why="CrashLoopBackOff (exit code 1): back-off 5m0s",
    )  # fmt: skip
    fresh = gpu_choice.pod_of({"metadata": created, "spec": spec})
    assert fresh is not None
    assert (fresh.ready, fresh.since, fresh.why) == (False, NOW - dt.timedelta(hours=1), "")
    assert gpu_choice.pod_of({"metadata": created, "spec": {"containers": [{}]}}) is None
    going = {**created, "deletionTimestamp": "2026-11-21T11:00:00Z"}
    assert gpu_choice.pod_of({"metadata": going, "spec": spec}) is None


def test_the_condition_follows_what_is_asked_and_outlives_a_restart() -> None:
    def status(given: Snapshot) -> LLMServiceStatus:
        return statuses.build(given, Outcome(), InjectionStatus(), NOW)

    def found(of: LLMServiceStatus) -> Condition | None:
        return conditions.find(of.conditions, "GPUMetricsReady")

    measured = status(snapshot(gpu=("True", "CanRun", "NVIDIA's dcgm-exporter runs.")))
    assert found(measured) is not None
    restarted = status(snapshot(measured.dump(), gpu=("Unknown", "NotKnown", "Not read yet.")))
    assert found(restarted) == found(measured)
    assert found(status(snapshot(measured.dump(), gpu=None))) is None


def test_an_installation_without_gpus_runs_none_and_says_so() -> None:
    off = replace(SETTINGS, gpu_enabled=False)
    choice = chosen(PLAIN, "DCGM", settings=off)
    assert (choice.exporter, choice.foreign, choice.reason) == (None, None, "Disabled")
    assert chosen(PLAIN, None, settings=off) == gpu_choice.NO_EXPORTER
    said = gpu_choice.verdict(service("Auto"), choice, Facts(), off)
    assert said is not None
    assert said[:2] == ("False", "Disabled")
    assert "gpu.enabled" in said[2]
    assert gpu_choice.verdict(service(None), choice, Facts(), off) is None
