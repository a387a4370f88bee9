"""How kernels are compiled, linked, cached and run by threads."""
