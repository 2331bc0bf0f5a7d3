"""NNCF 2.x's names and states."""
