"""What a user got wrong, as opposed to what we did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_modules.utils.names import one_line

MOST_CHARACTERS = 300  # characters of a library's message


class InputError(ValueError):
    """Bad input met while running; one line that names it and says what is accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def message_of(error: object) -> str:
    """What an error says; of one in a loader's worker, which sends its traceback, the last line."""
    message = str(error)
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    return message


def short_message(error: BaseException) -> str:
    """What an error of a library says, on one line, shortened."""
    text = one_line(error)
    if not text or isinstance(error, KeyError):  # which says no more than the key
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


@contextmanager
def as_input_error(given: str, accepted: str) -> Iterator[None]:
    """Whatever is raised within becomes an InputError: what was `given`, what was said about it.

    For calls into a library, which raise anything where options do not go together. An InputError
    says itself what is accepted.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{given}: {error}") from error
    except Exception as error:
        raise InputError(f"{given}: {short_message(error)}; accepted: {accepted}") from error
