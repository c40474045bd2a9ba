"""Tokens of a text, estimated: what is charged, and labelled so, where a provider reported no usage.

A real tokenizer's vocabulary is tens of megabytes, which a sidecar would pay once per pod. This is none: bytes are put into classes
with two `bytes.translate`, occurrences are counted at memory speed, and each has a weight. The weights are fitted to OpenAI's
o200k_base over prose in thirteen languages, code, JSON and interface texts (`python -m benchmarks.estimate --fit`); docs/estimate.md
says how far off it is, by kind of text and for other vendors' tokenizers.
"""

import re
from typing import Final

import msgspec

from llmwarden.proxy.dialects.base import MOST_TOKENS

# An image that is sent inline has no tokens that its bytes would show: OpenAI's figure for 1024 x 1024 at high detail. Other
# binary parts (audio, a PDF) count the same: nothing in their bytes is cheap to read and tells more.
IMAGE_TOKENS: Final = 765
SAMPLE: Final = 4096  # bytes that are looked at; of a longer text, eight windows evenly drawn
_WINDOWS: Final = 8
_WINDOW: Final = SAMPLE // _WINDOWS
_BLOB: Final = 1024  # a JSON string this long that looks like base64 is binary

# Weights: tokens per occurrence in the text once its bytes are replaced by their classes.
_BY_CLASS: Final = (
    (b"0", 0.924),  # digits,
    (b"000", -1.246),  # which go three to a token
    (b".", 0.357),  # punctuation, often more than one to a token
    (b"n", 1.756),  # line ends
)
_BY_CLASS_BEYOND_ASCII: Final = (
    (b"L", 1.218),  # accented Latin
    (b"G", 0.402),  # Greek
    (b"R", 0.306),  # Cyrillic
    (b"H", 0.405),  # Armenian, Hebrew
    (b"B", 0.346),  # Arabic
    (b"I", 0.365),  # India's scripts, Thai
    (b"V", 0.359),  # Georgian, Vietnamese's doubly accented letters, and others
    (b"S", 0.907),  # typographic signs, arrows, mathematics
    (b"J", 0.669),  # kana and CJK punctuation
    (b"Z", 0.773),  # Han
    (b"K", 0.684),  # Hangul
    (b"F", 1.0),  # full-width forms
    (b"E", 2.394),  # emoji
)
_BY_WORD: Final = (
    (b" a", 0.546),  # words of ASCII letters,
    (b"aaaa", 0.66),  # and each four letters of one
)
_NON_ASCII_WORD: Final = (b" h", 0.339)

_LEADS: Final = (  # the first byte of a UTF-8 sequence, up to which its class goes
    (0xC0, b"c"),
    (0xCC, b"L"),
    (0xD0, b"G"),
    (0xD4, b"R"),
    (0xD8, b"H"),
    (0xE0, b"B"),
    (0xE1, b"I"),
    (0xE2, b"V"),
    (0xE3, b"S"),
    (0xE4, b"J"),
    (0xEA, b"Z"),
    (0xEE, b"K"),
    (0xF0, b"F"),
    (0x100, b"E"),
)
_ESCAPES: Final = re.compile(
    rb"\\u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*"
)  # begins with a literal: searched at memory speed
_ROLE: Final = b'"role"'
_MESSAGE: Final = 4  # tokens that a chat template puts around a message


def _class(byte: int) -> bytes:
    if byte < 0x80:  # noqa: PLR2004 - ASCII
        sign = bytes([byte])
        if sign.isalpha():
            return b"a"
        if sign.isdigit():
            return b"0"
        return b" " if sign in b" \t" else b"n" if sign in b"\r\n" else b"."
    return next(name for end, name in _LEADS if byte < end)


_CLASSES: Final = b"".join(_class(byte) for byte in range(256))
_LETTERS: Final = b"".join(b"a" if bytes([byte]).isalpha() else b" " for byte in range(256))


class Prompt(msgspec.Struct, frozen=True):
    """What is kept of a request until it is known whether its tokens must be estimated: at most `SAMPLE` bytes of it."""

    sample: bytes = b""
    size: int = 0  # bytes of text
    images: int = 0

    def tokens(self) -> int:
        """The estimate."""
        return text(self.sample, self.size) + self.images * IMAGE_TOKENS


def prompt(body: bytes, size: int | None = None) -> Prompt:
    """Draw from a JSON body of which `size` bytes are text for the model (None: all of it)."""
    size = len(body) if size is None else size
    sample = _sample(body)
    if len(body) > SAMPLE and _binary(sample):
        texts, images = _without_blobs(body)
        size -= len(body) - len(texts) - images  # each took a quote with it
        return Prompt(_sample(texts), max(size, 0), images)
    return Prompt(sample, size)


def text(sample: bytes, size: int | None = None) -> int:
    """Estimate the tokens of a text of `size` bytes of which `sample` is a part (None: it is the whole). JSON's escapes are undone."""
    length = len(sample)
    size = length if size is None else size
    if not length or size <= 0:
        return 0
    plain = _unescaped(sample)
    tokens = _weigh(plain) - plain.count(_ROLE) * _ENVELOPE
    return min(max(round(tokens * size / length), 1), MOST_TOKENS)


def _without_blobs(body: bytes) -> tuple[bytes, int]:
    """A JSON text without its long binary strings, and how many those are.

    In steps of such a length, back to the last quote: one by one, the strings of a large body would take ten times its memory.
    """
    texts: list[bytes] = []
    images = start = at = 0
    while at < len(body):
        quote = body.rfind(b'"', at, at + _BLOB)
        if quote >= 0:
            at = quote + 1
            continue
        end = body.find(b'"', at + _BLOB)
        end = end if end >= 0 else len(body)
        if end - at >= _BLOB and _binary(body[at : at + _WINDOW]):
            texts.append(body[start:at])
            images += 1
            start = end + 1
        at = end + 1
    texts.append(body[start:])
    return b"".join(texts), images


def _sample(body: bytes) -> bytes:
    size = len(body)
    if size <= SAMPLE:
        return body
    step = (size - _WINDOW) // (_WINDOWS - 1)
    return b"".join([body[start : start + _WINDOW] for start in range(0, step * _WINDOWS, step)])


def _binary(sample: bytes) -> bool:
    """Whether a window of it looks like base64: text has spaces, or bytes beyond ASCII."""
    for start in range(0, len(sample), _WINDOW):
        window = sample[start : start + _WINDOW]
        if len(window) == _WINDOW and window.isascii() and not (b" " in window or b'"' in window or b"\\" in window):
            return True
    return False


def _unescaped(sample: bytes) -> bytes:
    """A JSON string's characters as UTF-8; what is cut off at a window's bound stays."""
    if b"\\" not in sample:
        return sample
    if b"\\u" in sample:
        sample = _ESCAPES.sub(_characters, sample)
    return sample.replace(b"\\n", b"\n").replace(b"\\t", b"\t").replace(b'\\"', b'"').replace(b"\\\\", b"\\")


def _characters(match: re.Match[bytes]) -> bytes:
    units = match[0].decode("unicode_escape").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace").encode()


def _weigh(plain: bytes) -> float:
    classes = plain.translate(_CLASSES)
    words = plain.translate(_LETTERS)
    tokens = float(words.startswith(b"a")) * _BY_WORD[0][1]
    for pattern, weight in _BY_CLASS:
        tokens += classes.count(pattern) * weight
    for pattern, weight in _BY_WORD:
        tokens += words.count(pattern) * weight
    if not plain.isascii():
        for pattern, weight in _BY_CLASS_BEYOND_ASCII:
            tokens += classes.count(pattern) * weight
    return tokens


_ENVELOPE: Final = _weigh(b'{"role":"user","content":""},') - _MESSAGE
