"""The public functions, one a file. Private as modules: use the names in ``fastce``."""
