"""Code that public functions share: checked arguments, layouts, results, and the loss of all cross-entropies."""
