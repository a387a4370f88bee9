"""The SIMD value, its functions, regimes, and how kernels are compiled and kept."""
