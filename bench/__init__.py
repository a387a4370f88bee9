"""fastce timed against other libraries and against the machine's own memory limit: ``python -m bench``.

``cases`` says what is timed; ``inputs`` makes the data, ``oracle`` checks results, ``contenders`` has a table of calls
for each library. A ``worker`` is a contender's process, a ``process`` its handle, and the ``runner`` gives the workers
their turns. ``full`` lists the stages of the full run, ``busy`` measures beside other processes. ``data`` keeps a run
as tidy data; ``tables``, ``bars``, ``plots`` and ``report`` show it.
"""
