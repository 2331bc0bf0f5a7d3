"""Training time: the one mutable object, and what it is made of."""

from nncf_ext.controller.controller import Controller

__all__ = ["Controller"]
