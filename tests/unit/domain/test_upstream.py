from typing import get_args

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.common import BackendType
from llmwarden.domain import upstream


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("https://api.openai.com", "OpenAI"),
        ("https://eu.api.openai.com", "OpenAI"),
        ("HTTPS://API.OpenAI.com./", "OpenAI"),
        ("https://api.openai.com:443/gateway", "OpenAI"),
        ("https://my-resource.openai.azure.com", "AzureOpenAI"),
        ("https://api.anthropic.com", "Anthropic"),
        ("https://bedrock-runtime.eu-central-1.amazonaws.com", "Bedrock"),
        ("https://europe-west4-aiplatform.googleapis.com", "Gemini"),
        ("http://vllm", "VLLM"),
        ("http://vllm.models.svc:8000", "OpenAI"),
        ("http://vllm.models.svc.cluster.local:8000/prefix", "VLLM"),
        ("http://pod-0.vllm.models.svc", "VLLM"),
        ("https://vllm.models.svc", "OpenAICompatible"),
    ],
)
def test_own_hosts_and_services_of_the_cluster_are_good(url: str, backend: BackendType) -> None:
    assert upstream.check_url(url, backend) is None


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://evil.example", "names evil.example, which is not allowed"),
        ("https://api.openai.com.evil.example", "is not allowed"),
        ("https://evil-api.openai.com", "is not allowed"),
        ("https://api.anthropic.com", "is not allowed"),
        # Could be a Service of another namespace, and is a public domain where there is none.
        ("http://evil.com", "a Service of the cluster is written NAME.NAMESPACE.svc"),
        ("http://svc", None),
        ("https://foo.svc", "is not allowed"),
        ("https://a.b.svc.evil.example", "is not allowed"),
        ("http://localhost:8080", "is not allowed"),
        ("http://api.openai.com", "must begin with https://: api.openai.com is outside the cluster"),
        ("ftp://api.openai.com", "must begin with https://"),
        ("https://user:pass@api.openai.com", "must not contain a user name or password"),
        ("https://api.openai.com@evil.example", "must not contain a user name or password"),
        ("https://evil.example#@api.openai.com", "must not have a query or a fragment"),
        ("https://api.openai.com?x=1", "must not have a query or a fragment"),
        ("https://api.openai.com/#", "must not have a query or a fragment"),
        ("https://api.openai.com/v1", "must not end in the API version"),
        ("https://api.openai.com/v1/", "must not end in the API version"),
        ("https://api.openai.com/v1beta", "must not end in the API version"),
        ("https://api.openai.com/openai/v1", "must not end in the API version"),
        ("https://api.openai.com/a/../b", "path that cannot be a prefix"),
        ("https://api.openai.com//evil", "path that cannot be a prefix"),
        ("https://api.openai.com/a b", "path that cannot be a prefix"),
        ("https://10.0.0.1", "must not name an address"),
        ("https://[::1]", "must not name an address"),
        ("https://[::ffff:10.0.0.1]:443", "must not name an address"),
        ("http://169.254.169.254/latest", "must not name an address"),
        # What resolvers take for addresses.
        ("http://2130706433", "must not name an address"),
        ("http://0x7f000001", "must not name an address"),
        ("http://127.1", "must not name an address"),
        ("https://", "no valid host"),
        ("https://:443", "no valid host"),
        ("https://api.openai.com:0", "no valid host and port"),
        ("https://api.openai.com:99999", "no valid host and port"),
        ("https://api.openai.com:", "no valid host and port"),
        ("https://api%2eopenai.com", "no valid host"),
        ("https://api.openai.com\\@evil.example", "user name or password"),
        ("https://api.openai.com\\.evil.example", "no valid host"),
        ("https://api.openai.com\n", "no valid host"),
        ("https://api..openai.com", "no valid host"),
        ("https://аpi.openai.com", "in its ASCII form"),  # noqa: RUF001 - a Cyrillic letter
        ("api.openai.com", "is not a URL"),
        ("", "is not a URL"),
        ("//api.openai.com", "is not a URL"),
    ],
)
def test_a_url_that_could_take_a_key_elsewhere_is_refused_with_a_sentence(url: str, sentence: str | None) -> None:
    refusal = upstream.check_url(url, "OpenAI")
    if sentence is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.startswith("backend.url")
        assert sentence in refusal


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("https://gateway.example", "gateway.example"),
        ("https://GATEWAY.example.", "Gateway.Example."),
        ("https://a.b.example", "*.example"),
        ("https://10.0.0.1:8443", "10.0.0.1"),
        ("https://[2001:db8::1]", "2001:db8:0::1"),
    ],
)
def test_the_platform_can_allow_hosts_and_addresses(url: str, pattern: str) -> None:
    assert upstream.check_url(url, "OpenAI") is not None
    assert upstream.check_url(url, "OpenAI", (pattern,)) is None


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("https://example", "*.example"),
        ("https://evilexample.com", "*.example.com"),
        ("https://example.com", "*.example.com"),
        ("https://10.0.0.1", "*.0.0.1"),
        ("http://gateway.example", "gateway.example"),
    ],
)
def test_an_allowed_suffix_is_labels_below_it_and_https(url: str, pattern: str) -> None:
    expected_good = "." not in url.partition("//")[2]  # a single label is a Service of the cluster in any case
    assert (upstream.check_url(url, "OpenAI", (pattern,)) is None) is expected_good


def test_another_cluster_domain() -> None:
    assert upstream.check_url("http://a.b.svc.corp.internal", "VLLM", (), "corp.internal") is None
    assert upstream.check_url("http://a.b.svc.cluster.local", "VLLM", (), "corp.internal") is not None


@pytest.mark.parametrize("backend", get_args(BackendType))
def test_every_type_is_known_and_its_own_address_is_good(backend: BackendType) -> None:
    assert upstream.backend_provider(backend)
    url = upstream.default_url(backend)
    if url is not None:
        assert upstream.check_url(url, backend) is None


def test_engines_are_intercepted_by_port_unless_the_spec_says_otherwise() -> None:
    def service(backend: str, **workload: object) -> LLMService:
        spec = {"backend": {"type": backend}, "workload": {"selector": {"matchLabels": {"a": "b"}}, **workload}}
        return parse(LLMService, {"metadata": {"name": "x", "namespace": "y"}, "spec": spec})

    assert upstream.interception(service("VLLM")) == "Port"
    assert upstream.interception(service("OpenAI")) == "Env"
    assert upstream.interception(service("OpenAICompatible")) == "Env"
    assert upstream.interception(service("VLLM", interception={"type": "Env"})) == "Env"
