"""Data sets whose samples are the rows of a table on disk."""
