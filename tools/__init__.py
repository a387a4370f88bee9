"""What makes the documents: the accuracy report, the figures in the README, the times of first calls."""
