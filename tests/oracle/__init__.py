"""What functions have to return, and the layouts that they have to take."""
