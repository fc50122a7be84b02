"""Classifiers: what they share, their kinds, their weights and checkpoints."""
