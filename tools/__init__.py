"""Make the documents: the accuracy report, the README's figures, the times of first calls, the tables of options.

``speed`` times what the pages of ``docs`` state; ``scale.py`` models many ranks; ``arm64.sh`` makes a Python for 64-bit
ARM, which runs under emulation.
"""
