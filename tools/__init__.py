"""Make the documents: the accuracy report, the README's figures, the times of first calls.

``arm64.sh`` makes a Python for 64-bit ARM, which runs under emulation.
"""
