"""What the engine refuses."""


class UnsupportedModel(ValueError):
    """The model does something that relevance cannot follow; the message says what is accepted."""
