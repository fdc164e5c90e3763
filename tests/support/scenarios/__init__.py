"""For each known-bugs rule a build it is about, and what becomes of that build without the rule."""
