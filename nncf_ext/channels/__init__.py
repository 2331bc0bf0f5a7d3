"""Channels of a model that go together: which they are, which can go, and what is left without them."""
