"""Backward passes through a recording: from the logits to maps, and on to the sources."""
