"""The tests of fastce."""
