"""Rewrites of a whole temporal model: of its equations and of their graphs together."""
