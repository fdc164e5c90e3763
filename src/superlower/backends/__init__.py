"""Compiler SDKs behind one protocol: what they cover, how they build, how their engines run."""
