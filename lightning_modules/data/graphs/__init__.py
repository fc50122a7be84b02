"""Graphs: what they are in files and in batches, and the data sets."""
