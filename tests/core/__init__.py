"""Arguments, errors, layouts, results and memory: the same for all functions."""
