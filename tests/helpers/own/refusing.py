"""A method of a stranger's own that refuses every model."""

import relprop


@relprop.method("refusing")
def refusing(trace, target, options):
    """Says so."""
    raise relprop.UnsupportedModel("no model will do; accepted: none")
