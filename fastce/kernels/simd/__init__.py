"""The SIMD value: arithmetic, memory, transposition and mathematical functions."""
