"""Runs any program on any mix of sessions."""
