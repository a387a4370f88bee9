"""Tests of fastce."""

import os

ENVIRONMENT = dict(os.environ)  # before fastce was imported, which must not change it
