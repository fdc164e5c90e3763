"""What the verbs of the command line do: export, compile, check and upscale, from plain arguments."""
