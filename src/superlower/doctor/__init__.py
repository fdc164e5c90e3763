"""Known bugs and limits of the SDKs as data, and what superlower does about each."""
