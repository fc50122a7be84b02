"""Graphs: read, explained, drawn and watched."""
