"""Compares the estimate with real tokenizers, and fits its weights. Runs in the venv that `__main__` makes."""

import argparse
import functools
import json
import os
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.estimate import texts
from llmwarden.proxy.calls import estimate

REFERENCE = "o200k_base"
Tokenizer = Callable[[str], int]


def tokenizers() -> dict[str, Tokenizer]:
    """Real ones, from the vocabularies in litellm."""
    folder = texts.package("litellm") / "litellm_core_utils" / "tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken  # noqa: PLC0415 - reads the variable
    import tokenizers as huggingface  # noqa: PLC0415 - only for these two

    def openai(name: str) -> Tokenizer:
        encoding = tiktoken.get_encoding(name)
        return lambda text: len(encoding.encode_ordinary(text))

    def other(name: str) -> Tokenizer:
        tokenizer = huggingface.Tokenizer.from_file(str(folder / f"{name}_tokenizer.json"))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

    return {
        "o200k_base": openai("o200k_base"),
        "cl100k_base": openai("cl100k_base"),
        "deepseek": other("deepseek"),
        "claude-2": other("anthropic"),
    }


def report(kinds: dict[str, list[str]]) -> None:
    """A table: of each kind, the error over all its texts, the mean error of one text, and the error by other tokenizers."""
    real = tokenizers()
    names = [name for name in real if name != REFERENCE]
    print(
        "| text | error of the sum | mean error of one text | as JSON, escaped | bytes / 4 |",
        *(f"{name} |" for name in names),
    )
    print("|---|---|---|---|---|" + "---|" * len(names))
    errors = []
    for kind, items in kinds.items():
        true = [real[REFERENCE](item) for item in items]
        ours = [estimate.text(item.encode()) for item in items]
        escaped = sum(estimate.text(json.dumps(item).encode()) for item in items)
        each = statistics.mean(abs(mine / right - 1) for mine, right in zip(ours, true, strict=True))
        errors.append(each)
        cells = [_percent(sum(ours) / sum(true)), f"{each:.0%}", _percent(escaped / sum(true))]
        cells.append(_percent(sum(len(item.encode()) for item in items) / 4 / sum(true)))
        cells += [_percent(sum(ours) / sum(map(real[name], items))) for name in names]
        print(f"| {kind} |", *(f"{cell} |" for cell in cells))
    print(f"\nmean over the kinds: {statistics.mean(errors):.1%}")


def speed() -> None:
    """How long an estimate takes."""
    source = Path(estimate.__file__).read_bytes()
    for size in (100, 1000, estimate.SAMPLE):
        data = source[:size]
        seconds = min(timeit.repeat(functools.partial(estimate.text, data), number=500, repeat=7)) / 500
        print(f"{size} bytes: {seconds * 1e6:.1f} us ({seconds / size * 1e8:.2f} us per 100 bytes)")
    large = json.dumps({"messages": [{"role": "user", "content": source.decode() * 12}]}).encode()
    seconds = min(timeit.repeat(lambda: estimate.prompt(large), number=500, repeat=7)) / 500
    print(f"drawing from a prompt of {len(large)} bytes: {seconds * 1e6:.1f} us")


def fit(kinds: dict[str, list[str]], prose: dict[str, list[str]]) -> None:
    """Weights by least squares of the relative error, none below zero but the one for digits in threes.

    Each kind counts the same and prose four times: it is what prompts are made of. Every other text is left out, to be checked against.
    """
    real = tokenizers()[REFERENCE]
    patterns = [
        *((estimate._CLASSES, item) for item, _ in estimate._BY_CLASS),  # noqa: SLF001 - it is what is fitted
        *((estimate._LETTERS, item) for item, _ in estimate._BY_WORD),  # noqa: SLF001
        *((estimate._CLASSES, item) for item, _ in estimate._BY_CLASS_BEYOND_ASCII),  # noqa: SLF001
    ]
    full_width = (estimate._CLASSES, b"F")  # noqa: SLF001
    patterns.remove(full_width)  # too few of them: they would be given what their neighbours cost
    rows, wanted = [], []
    for weight, group in ((1, kinds), (4, prose)):
        for items in group.values():
            for item in items[::2]:
                data, true = item.encode(), real(item)
                scale = (weight / len(items)) ** 0.5
                rows.append([data.translate(table).count(pattern) * scale / true for table, pattern in patterns])
                wanted.append(scale * (1 - data.translate(full_width[0]).count(full_width[1]) / true))
    matrix, right = np.array(rows), np.array(wanted)
    kept = list(range(len(patterns)))
    while True:
        found = np.linalg.lstsq(matrix[:, kept], right, rcond=None)[0]
        below = [
            column for column, value in zip(kept, found, strict=True) if value < 0 and patterns[column][1] != b"000"
        ]
        if not below:
            break
        kept = [column for column in kept if column not in below]
    for column, value in zip(kept, found, strict=True):
        print(patterns[column][1].decode(), round(float(value), 3))


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.0%}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit the weights anew and print them")
    parser.add_argument(
        "--texts", type=Path, help="a folder of text files to measure over, or to fit with the others as prose"
    )
    asked = parser.parse_args()
    own = texts.folder(asked.texts) if asked.texts else {}
    if asked.fit:
        fit(texts.texts(), own)
    else:
        report(own or texts.texts())
        speed()


if __name__ == "__main__":
    main()
