"""What an accelerator is, as data."""
