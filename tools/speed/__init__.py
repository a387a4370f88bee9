"""The times that pages of ``docs`` state, a module a page: ``python -m tools.speed.NAME``; ``make speed`` writes all.

With ``--write`` a module fills in its pages, with ``--quick`` it makes calls of all kinds on small arrays, within
seconds. ``turns.py`` has what they share: libraries in processes of their own, which are the benchmark's, or calls of
one library in one process. Imports of the libraries are inside functions: each process has the library it times.
"""
