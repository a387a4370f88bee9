"""The values of public functions, one family a file, and promises that all of them keep."""
