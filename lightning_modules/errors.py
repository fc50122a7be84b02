"""What a user got wrong, as opposed to what we did."""


def one_line(message: object) -> str:
    """A message on one line of a terminal, whatever the names and files that it quotes hold.

    White space becomes single spaces; what cannot be printed (control characters, which a terminal
    would obey; marks that turn the direction of the text) becomes its escape sequence.
    """
    words = " ".join(str(message).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


class InputError(ValueError):
    """Bad input met while running; one line that names it and says what is accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
