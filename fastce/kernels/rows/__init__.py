"""Building blocks by the shape of rows, and what samples and results need."""
