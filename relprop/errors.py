"""What the engine refuses."""


class UnsupportedModel(ValueError):
    """The model does something that relevance cannot follow; the message says what is accepted."""


class TooLarge(BaseException):
    """A recording has a tensor of more bytes than it was allowed; for the engine alone.

    No Exception: a model that catches those must not go on without being recorded.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"a tensor of {nbytes} bytes")
        self.nbytes = nbytes


class UnknownName(ValueError):
    """No such name is registered; the message says which are."""
