"""What a user got wrong, as opposed to what we did."""


class InputError(ValueError):
    """Bad input met while running; one line that names it and says what is accepted."""
