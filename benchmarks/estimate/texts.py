"""The texts that the estimate is measured over: all from packages, so that anybody measures the same."""

import ast
import base64
import importlib.util
import json
import pydoc_data.topics
import random
import re
import sysconfig
from pathlib import Path

LANGUAGES = (
    "ar",
    "bg",
    "bn",
    "cs",
    "de",
    "el",
    "es",
    "fa",
    "fi",
    "fr",
    "he",
    "hi",
    "hu",
    "hy",
    "id",
    "it",
    "ja",
    "ka",
    "ko",
    "nl",
    "pl",
    "pt_BR",
    "ro",
    "ru",
    "sv",
    "ta",
    "th",
    "tr",
    "uk",
    "vi",
    "zh_Hans",
    "zh_Hant",
)
MOST = 160_000  # characters of one kind
CHUNK = 1500  # characters of one text, about a prompt
_MESSAGE = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', re.MULTILINE)
_EMOJI = ["😀", "🎉", "🚀", "❤️", "👍", "🔥", "✅", "⚠️", "💡", "🤖", "🙏", "😂", "🇩🇪", "👩‍💻"]
_SIGNS = "→•—–“”’…×≥≤±°€£√∑│┌─└"  # noqa: RUF001 - the point of them


def package(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin).parent


def texts() -> dict[str, list[str]]:
    """By kind, texts of `CHUNK` characters."""
    django, stdlib = package("django"), Path(json.__file__).parents[1]
    rng = random.Random(1)  # noqa: S311 - the same texts each time
    english = "\n".join(list(pydoc_data.topics.topics.values())[:40])
    prices = json.loads((package("litellm") / "model_prices_and_context_window_backup.json").read_text())
    prices = dict(list(prices.items())[:300])
    kinds = {
        "English prose": english,
        "Python": _read(stdlib, "argparse.py", "asyncio/streams.py", "json/decoder.py", "shutil.py", "tarfile.py"),
        "JavaScript": _read(django, "contrib/admin/static/admin/js/*.js"),
        "CSS": _read(django, "contrib/admin/static/admin/css/*.css"),
        "HTML": _read(django, "contrib/admin/templates/**/*.html"),
        "C": _read(Path(sysconfig.get_paths()["include"]), "a*.h", "b*.h", "c*.h", "d*.h"),
        "JSON, indented": json.dumps(prices, indent=2),
        "JSON, compact": json.dumps(prices, separators=(",", ":")),
        "numbers": "\n".join(
            ",".join(f"{rng.gauss(1000, 500):.{rng.choice([0, 2, 3])}f}" for _ in range(8)) for _ in range(400)
        ),
        "hexadecimal": "\n".join(f"{rng.getrandbits(128):032x} {rng.getrandbits(48):012x}" for _ in range(300)),
        "log lines": "\n".join(_log(rng) for _ in range(300)),
        "English with emoji": _sprinkled(english[:30_000], _EMOJI, rng),
        "English with signs": _sprinkled(english[:30_000], list(_SIGNS), rng),
        **{f"interface, {name}": _translations(django, name) for name in LANGUAGES},
    }
    return {kind: chunks(text) for kind, text in kinds.items()}


def folder(path: Path) -> dict[str, list[str]]:
    """The files of a folder, each a kind."""
    return {file.name: chunks(file.read_text("utf-8", "replace")) for file in sorted(path.iterdir()) if file.is_file()}


def binary(rng: random.Random) -> str:
    """Base64, as of an image."""
    return base64.b64encode(rng.randbytes(60_000)).decode()


def chunks(text: str) -> list[str]:
    """The text cut to prompts."""
    text = text[:MOST]
    return [text[start : start + CHUNK] for start in range(0, max(len(text) - CHUNK // 4, 1), CHUNK)]


def _read(base: Path, *patterns: str) -> str:
    return "".join(file.read_text("utf-8") for pattern in patterns for file in sorted(base.glob(pattern)))


def _translations(django: Path, language: str) -> str:
    messages = []
    for file in sorted(django.glob(f"**/locale/{language}/LC_MESSAGES/*.po")):
        for match in _MESSAGE.finditer(file.read_text("utf-8")):
            message = "".join(ast.literal_eval(line) for line in match[1].strip().split("\n"))
            if message and "Project-Id" not in message:
                messages.append(message)
    return "\n".join(messages)


def _sprinkled(text: str, marks: list[str], rng: random.Random) -> str:
    return " ".join(f"{word} {rng.choice(marks)}" if rng.random() < 0.2 else word for word in text.split())  # noqa: PLR2004 - a fifth of the words


def _log(rng: random.Random) -> str:
    return (
        f"2026-11-{rng.randrange(1, 29):02} {rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02},{rng.randrange(1000):03} "
        f"{rng.choice(['INFO', 'WARNING', 'ERROR'])} [{rng.choice(['http', 'db', 'worker-3'])}] request id={rng.getrandbits(40):x} "
        f"took {rng.randrange(9999)} ms status={rng.choice([200, 404, 500])} path=/api/v1/{rng.choice(['users', 'items'])}/{rng.randrange(99999)}"
    )
