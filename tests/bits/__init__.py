"""The same bits everywhere."""
