"""Commented example configs; also data of the installed package."""
