"""The last layer and its loss, a chunk of rows at a time."""
