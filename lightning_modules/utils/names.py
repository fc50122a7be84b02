"""Names that users have given, as they may appear in messages, file names and tags."""

from __future__ import annotations

import hashlib
import re


def one_line(message: object) -> str:
    """A message on one line of a terminal, whatever the names and files that it quotes hold.

    Its lines are joined by spaces; what cannot be printed (control characters, which a terminal
    would obey; marks that turn the direction of the text) becomes its escape sequence.
    """
    line = " ".join(filter(None, map(str.strip, str(message).splitlines())))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def printable(text: str) -> str:
    """With spaces for what cannot be printed, as it is shown in pictures and on pages."""
    return "".join(c if c.isprintable() else " " for c in text)


def visible(name: str) -> str:
    """A name whose space at an end is seen: of a token that begins a word, in quotes."""
    return name if name == name.strip() and name else f'"{name}"'


def slug(name: str) -> str:
    """A unique, portable file name for ``name``."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-60:].strip("-")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{readable or 'input'}-{digest[:8]}"


def tag(name: str) -> str:
    """Part of a metric's tag: the name where it is short and plain, else its slug."""
    return name if re.fullmatch(r"[\w .,()'&+-]{1,60}", name) else slug(name)
