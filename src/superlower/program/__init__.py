"""The temporal program: what happens across frames, as equations over streams. See docs/program-json.md."""
