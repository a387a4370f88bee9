"""Drivers: one operation a file, one driver a regime."""
