"""Events that differ from the one before in their text only, which most events of a stream do: recognised without decoding them.

Two JSON objects that have the same bytes before and after one string, and a plain string (no quote, no escape, no control character) in
its place, mean the same but for that string. So the event that was decoded says what the others mean, and they need only be compared.
"""

import re
from typing import Final

_TEXT: Final = re.compile(rb'[^"\\\x00-\x1f]+')
_FILLER: Final = b'"obfuscation":"'  # OpenAI's padding, as random as the text
_NUMBER: Final = b'"sequence_number":'  # of Responses' events, each by one more
_NOTHING: Final = (0, 0, 0, b"")
# What may stand in a hole of a `Pattern`: a string's inside (tools' arguments are JSON, and so full of escaped quotes; an event with an
# escaped number is left to the decoder, which knows surrogates), padding, a count.
_ESCAPED: Final = rb'((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt])++)'
_PADDING: Final = rb'[^"\\\x00-\x1f]++'
_PATTERNS: Final = frozenset({b'"partial_json":', b'"delta":'})  # behind which such text stands
_COUNT: Final = rb"(?:0|[1-9][0-9]*+)"


class Shape:
    """What surrounds the text. `kept` is what of the rest goes on to a client that did not ask for usage."""

    __slots__ = ("_filler", "_kept", "_many", "_prefix", "_same", "_start", "_suffix", "_tail")

    def __init__(self, prefix: bytes, suffix: bytes, tail: bytes, kept: bytes) -> None:
        self._prefix = prefix
        self._start = len(prefix)
        self._suffix = suffix
        self._filler = bool(tail)
        self._tail = tail
        self._kept = kept
        self._same = kept == suffix
        self._many = 2 * (len(prefix) + len(suffix))  # bytes from which there may be two events

    def take(self, data: bytes) -> tuple[int, int, int, bytes]:
        """Whole events of this shape at the beginning: how many, their texts' bytes, where they end, and what goes on of them."""
        if self._filler or not data.startswith(self._prefix):
            return self._take_each(data)
        text = _TEXT.match(data, self._start)
        if text is None:
            return _NOTHING
        stop = text.end()
        if stop + len(self._suffix) == len(data) and data.endswith(self._suffix):  # mostly it is one event
            return 1, stop - self._start, len(data), data if self._same else data[:stop] + self._kept
        if len(data) > self._many and (found := self._take_many(data)) is not None:
            return found
        return self._take_each(data)

    def _take_many(self, data: bytes) -> tuple[int, int, int, bytes] | None:
        """The same at once: between two texts stands the same from the first to the last of them. None where that is not so."""
        start, suffix = self._start, self._suffix
        texts = data[start:].split(suffix + self._prefix)
        last = texts.pop()
        at = len(data) - len(last) - start
        found = _TEXT.match(last)
        if found is not None and last.startswith(suffix, found.end()):
            texts.append(found[0])
            at += start + found.end() + len(suffix)
        joined = b"".join(texts)
        if not texts or b"" in texts or _TEXT.fullmatch(joined) is None:
            return None
        kept = (
            data[:at] if self._same else b"%b%b%b" % (self._prefix, (self._kept + self._prefix).join(texts), self._kept)
        )
        return len(texts), len(joined), at, kept

    def _take_each(self, data: bytes) -> tuple[int, int, int, bytes]:
        prefix, start, suffix, kept, same = self._prefix, self._start, self._suffix, self._kept, self._same
        at = count = size = 0
        end = len(data)
        out: list[bytes] = []
        while at < end and data.startswith(prefix, at):
            found = _TEXT.match(data, at + start)
            if found is None:
                break
            stop = found.end()
            if not data.startswith(suffix, stop):
                break
            after = stop + len(suffix)
            if self._filler:
                filler = _TEXT.match(data, after)
                if filler is None or not data.startswith(self._tail, filler.end()):
                    break
                after = filler.end() + len(self._tail)
            if not same:
                out += (data[at:stop], kept, data[stop + len(suffix) : after])
            count += 1
            size += stop - at - start
            at = after
        return count, size, at, data[:at] if same else b"".join(out)


class Pattern:
    """A shape with more than one hole, or one for escaped text; all of it goes on."""

    __slots__ = ("_match",)

    def __init__(self, pattern: bytes) -> None:
        self._match = re.compile(pattern).match

    def take(self, data: bytes) -> tuple[int, int, int, bytes]:
        """As `Shape.take`."""
        count = size = at = 0
        while (found := self._match(data, at)) is not None:
            count += 1
            size += found.end(1) - found.start(1)
            at = found.end()
        return count, size, at, data if at == len(data) else data[:at]


def pattern(event: bytes, text: bytes, name: bytes) -> Pattern | None:
    """The pattern of a whole event with this text (a JSON string with its quotes, found behind `name`); None where it has none."""
    holes = []
    for before, value, hole in ((name + b'"', text[1:-1], _ESCAPED), (_FILLER, b"", _PADDING), (_NUMBER, b"", _COUNT)):
        at = event.find(before)
        if at < 0 and not value:
            continue  # it has no such thing
        at += len(before)
        found = re.compile(hole).match(event, at)
        if found is None or (value and found[0] != value) or event.find(before, at) >= 0:
            return None  # not beyond doubt which of them it is, or what
        holes.append((at, found.end(), hole))
    at, parts = 0, []
    for start, end, hole in sorted(holes):
        parts += [re.escape(event[at:start]), hole]
        at = end
    return Pattern(b"".join([*parts, re.escape(event[at:])]))


def learn(event: bytes, text: bytes, kept: bytes, name: bytes = b'"content":') -> Shape | Pattern | None:
    """The shape of a whole event with this text (a JSON string with its quotes, found behind `name`); None where it has none.

    `kept` is the event as it goes on to the client.
    """
    if name in _PATTERNS:
        return pattern(event, text, name) if kept == event else None
    inner = text[1:-1]
    key = name + text
    at = event.find(key)
    if not _TEXT.fullmatch(inner) or at < 0 or event.find(name, at + 1) >= 0 or event.find(name) != at:
        return None  # not beyond doubt which of them it is
    start = at + len(key) - len(inner) - 1
    prefix, rest = event[:start], event[start + len(inner) :]
    if not kept.startswith(prefix + inner):
        return None
    kept = kept[len(prefix) + len(inner) :]
    filler = rest.find(_FILLER)
    if filler < 0:
        return Shape(prefix, rest, b"", kept)
    filler += len(_FILLER)
    found = _TEXT.match(rest, filler)
    if found is None or not kept.endswith(rest[filler:]):
        return None
    return Shape(prefix, rest[:filler], rest[found.end() :], kept[: len(kept) - len(rest) + filler])
