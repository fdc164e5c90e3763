"""The HTML report of a compile, a check or a benchmark."""
