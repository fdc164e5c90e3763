"""The jobs behind the verbs: export, compile, measure quality and speed, upscale."""
