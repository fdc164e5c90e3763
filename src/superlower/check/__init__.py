"""Whether an engine computes what the reference does, and where it first does not."""
