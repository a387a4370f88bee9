"""fastce timed against other libraries and against the machine's own memory limit: ``python -m bench``."""
