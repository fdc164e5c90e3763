"""superlower lowers video super-resolution models onto accelerators."""

__version__ = "0.1.0"
