"""Holding engines to the reference: frame by frame, and down to the first node that differs."""
