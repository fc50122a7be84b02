"""What a user got wrong, as opposed to what we did."""

from lightning_modules.names import one_line


class InputError(ValueError):
    """Bad input met while running; one line that names it and says what is accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
