"""Sparse layers: which connections or filters matter least, and how many each layer has."""
