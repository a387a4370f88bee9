"""Tests of fastce."""

import os

# Idle threads sleep instead of spinning on the cores of the other tests: a tenth of all time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")  # log2 of cycles

ENVIRONMENT = dict(os.environ)  # before fastce was imported, which must not change it
