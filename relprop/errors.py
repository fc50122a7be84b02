"""What the engine refuses."""


class UnsupportedModel(ValueError):
    """The model does something that relevance cannot follow; the message says what is accepted."""


class TooLarge(Exception):
    """A recording has a tensor of more bytes than it was allowed; for the engine alone."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"a tensor of {nbytes} bytes")
        self.nbytes = nbytes
