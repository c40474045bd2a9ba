import pytest

from llmwarden.domain.upstream import BACKENDS
from llmwarden.injection.intercept import Ports, renamed_port
from llmwarden.injection.sdk import CLIENTS, BaseUrl, split_base_url


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OPENAI_BASE_URL", "https://api.openai.com/v1", BaseUrl("https://api.openai.com", "/v1")),
        ("OPENAI_BASE_URL", "https://gw.example/llm/v1/", BaseUrl("https://gw.example/llm", "/v1")),
        ("OPENAI_BASE_URL", "https://ark.example/api/v3", BaseUrl("https://ark.example/api", "/v3")),
        ("OPENAI_BASE_URL", "http://[::1]:8000/v1", BaseUrl("http://[::1]:8000", "/v1")),
        ("OPENAI_BASE_URL", "http://gw/openai", BaseUrl("http://gw/openai", "")),
        ("OPENAI_BASE_URL", "http://gw/vectors", BaseUrl("http://gw/vectors", "")),
        ("GOOGLE_GEMINI_BASE_URL", "https://g.example/v1beta", BaseUrl("https://g.example", "/v1beta")),
        ("OPENAI_BASE_URL", "https://user:pass@gw.example/v1", None),
        ("OPENAI_BASE_URL", "https://gw.example/v1?key=1", None),
        ("OPENAI_BASE_URL", "ftp://gw.example/v1", None),
        ("OPENAI_BASE_URL", "gw.example/v1", None),
        ("OPENAI_BASE_URL", "http://gw.example:99999/v1", None),
        ("OPENAI_BASE_URL", "http://[::1/v1", None),
        ("OLLAMA_HOST", "ollama", BaseUrl("http://ollama:11434", "")),
        ("OLLAMA_HOST", "ollama:80", BaseUrl("http://ollama:80", "")),
        ("OLLAMA_HOST", "https://ollama.example", BaseUrl("https://ollama.example", "")),
        ("OLLAMA_HOST", "0.0.0.0", None),  # noqa: S104 - a server's, parsed only
        ("OLLAMA_HOST", ":11434", None),
    ],
)
def test_base_urls_are_taken_apart(variable: str, value: str, expected: BaseUrl | None) -> None:
    assert split_base_url(variable, value) == expected


def test_every_backend_type_has_its_clients() -> None:
    assert set(CLIENTS) == set(BACKENDS)


@pytest.mark.parametrize(
    ("name", "renamed"),
    [("http", "http-app"), ("openai-http-api", "openai-http-app"), ("abcdefghij-klm", "abcdefghij-app")],
)
def test_renamed_ports_fit_and_are_names(name: str, renamed: str) -> None:
    assert renamed_port(name) == renamed
    assert len(renamed) <= 15
    assert "--" not in renamed


def test_ports_are_handed_out_once() -> None:
    ports = Ports({15100, 15102})
    assert [ports.take(15100), ports.take(15100), ports.take(15100, 15110), ports.take(15100, 15110)] == [
        15101,
        15103,
        15110,
        15104,
    ]
