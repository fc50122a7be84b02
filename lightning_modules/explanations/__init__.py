"""What explain.py does between reading inputs and writing files."""
