"""Named architectures, one file each."""
