from pathlib import Path

import pytest

from demo import images, kube, steps
from image import archive, store


def test_placeholders_are_replaced_as_whole_values_and_as_flag_values(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: demo/x\nb: [--flag=demo/x, --other=demo/xy]\nc: not demo/x\n---\n---\nd: 1\n")
    assert kube.documents(path, {"demo/x": "real:1"}) == [
        {"a": "real:1", "b": ["--flag=real:1", "--other=demo/xy"], "c": "not demo/x"},
        {"d": 1},
    ]


def test_no_manifest_keeps_a_placeholder_on_a_public_cluster() -> None:
    replace = {"demo/workloads": images.WORKLOADS.tag, **images.PUBLIC, **steps.CHAT_LOAD["simulator"]}
    for name in ("monitoring", "workloads", "engine-simulator", "prerequisites", "services"):
        for document in kube.documents(steps.MANIFESTS / f"{name}.yaml", replace):
            assert "demo/" not in str(document)


def test_the_samples_provider_is_the_demo_s() -> None:
    documents = kube.documents(steps.SAMPLES / "support-bot.yaml", {"https://api.openai.com": steps.PROVIDER_URL})
    assert [document["spec"]["backend"]["url"] for document in documents] == [steps.PROVIDER_URL]


def test_digest_tells_names_and_contents_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("x")
    two.write_text("x")
    assert store.digest(one) != store.digest(two)
    before = store.digest(tmp_path)
    two.write_text("y")
    assert store.digest(tmp_path) != before
    assert store.digest("ab", "c") != store.digest("a", "bc")


def test_a_layer_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_text("#!")
    one = archive.layer(tmp_path / "1.tar", {"usr/bin/program": source})
    source.touch()
    two = archive.layer(tmp_path / "2.tar", {"usr/bin/program": source})
    assert one.read_bytes() == two.read_bytes()


def test_what_is_half_made_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMWARDEN_CACHE", str(tmp_path))
    target = tmp_path / "made"

    def fail(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "half").write_text("")
        raise RuntimeError

    for _ in range(2):
        try:
            store.once(target, fail)
        except RuntimeError:
            assert not target.exists()

    def finish(temporary: Path) -> None:
        temporary.write_text("whole")

    assert store.once(target, finish) == target
    assert target.read_text() == "whole"
