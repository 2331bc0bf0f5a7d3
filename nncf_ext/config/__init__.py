"""The sections of a config, one pydantic class each, and how its file is read."""
