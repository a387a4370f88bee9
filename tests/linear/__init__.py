"""The last layer and its loss."""
