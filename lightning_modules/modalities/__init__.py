"""What is known of a kind of input."""
