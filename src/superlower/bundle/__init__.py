"""Bundles: a program, its engines, a manifest of every file, and golden inputs and outputs."""
