"""From a Wikipedia dump to text8 format: lower-case letters a to z and single spaces, digits spelled out."""

import re
from collections.abc import Iterator
from pathlib import Path

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path
from tp4lib.base.progress import bar
from tp4lib.base.text import open_text

_PIECE = 1 << 20
_LONGEST = 1 << 25  # bytes without a ">": no article is as long

# In this order; every pattern works on one record, the text up to and including the next ">".
_RULES: tuple[tuple[re.Pattern[bytes], bytes], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE if folded else 0), new)
    for pattern, new, folded in (
        (rb"&amp;", b"&", False),  # markup is escaped once by XML
        (rb"&lt;", b"<", False),
        (rb"&gt;", b">", False),
        (rb"<ref[^<]*</ref>", b"", False),  # footnotes
        (rb"<[^>]*>", b"", False),  # HTML tags
        (rb"\[http:[^] ]*", b"[", False),  # external links keep their visible text
        (rb"\|thumb", b"", True),  # layout words inside image links, which keep their caption
        (rb"\|left", b"", True),
        (rb"\|right", b"", True),
        (rb"\|\d+px", b"", True),
        (rb"\[\[image:[^\[\]]*\|", b"", True),
        (rb"\[\[category:([^|\]]*+)[^]]*+\]\]", rb"[[\1]]", True),  # categories keep their name
        (rb"\[\[[a-z\-]*:[^\]]*\]\]", b"", False),  # links to other languages
        (rb"\[\[[^|\]]*\|", b"[[", False),  # links keep their visible text
        (rb"\{\{[^}]*\}\}", b"", False),  # templates, icons
        (rb"\{[^}]*\}", b"", False),  # tables
        (rb"[\[\]]", b"", False),
        (rb"&[^;]*;", b" ", False),  # other escaped characters
    )
)
_TAG = re.compile(rb"<.*>")
_REDIRECT = re.compile(rb"#redirect", re.IGNORECASE)
_OTHER = re.compile(rb"[^a-z]+")
_DIGITS = (b"zero", b"one", b"two", b"three", b"four", b"five", b"six", b"seven", b"eight", b"nine")
_DIGIT = re.compile(rb"[0-9]")


def clean_wikipedia(dump_path: str | Path, out_path: str | Path) -> int:
    """Turn a MediaWiki XML dump (plain or packed) into a text8-format file, by the recipe behind text8 and fil9.

    Text between ``<text ...>`` and ``</text>`` of pages that do not redirect; tags, footnotes, templates and tables
    out; links by their visible text, images by their caption; lower case; digits spelled out; everything else than
    a to z becomes one space. The recipe is that of M. Mahoney's "About the test data" (wikifil), byte for byte.

    Returns:
        bytes written. The file appears only when it is complete.

    Raises:
        InputError: the dump is missing or damaged, or holds no ``<text>``; the result cannot be written.
    """
    written = 0
    dump_path, out_path = Path(dump_path), Path(out_path)
    with open_text(dump_path) as file, atomic_path(out_path) as part, open(part, "wb") as out:
        with bar(desc=f"clean {dump_path.name}", unit="B") as progress:
            progress.unit_scale = True
            for text in cleaned_records(_records(file, progress)):
                written += out.write(text)
        if written == 0:
            raise InputError(
                f"{dump_path} holds no <text> with words; expected a MediaWiki XML dump (.xml, .bz2); check the file"
            )
    return written


def cleaned_records(records: Iterator[bytes]) -> Iterator[bytes]:
    """Apply the recipe to a stream of records, each ending with ``>``."""
    inside = False
    for record in records:
        if b"<text " in record:
            inside = True
        if inside and _REDIRECT.search(record):
            inside = False
        if not inside:
            continue
        if b"</text>" in record:
            inside = False
        text = _TAG.sub(b"", record, count=1)
        for pattern, new in _RULES:
            text = pattern.sub(new, text)
        text = _DIGIT.sub(lambda match: b" " + _DIGITS[match[0][0] - 48] + b" ", text.lower())
        # One space before every word and none after: records can be joined as they are.
        yield _OTHER.sub(b" ", b" " + text + b" ")[:-1]


def _records(file, progress) -> Iterator[bytes]:
    rest = b""
    while data := file.read(_PIECE):
        progress.update(len(data))
        *records, rest = (rest + data).split(b">")
        for record in records:
            yield record + b">"
        if len(rest) > _LONGEST:
            raise InputError(
                f"{_LONGEST:,} bytes without a tag; expected a MediaWiki XML dump (.xml, .bz2); check the file"
            )
    if rest:
        yield rest
