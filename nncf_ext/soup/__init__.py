"""Averages of models that were trained from one start: as small as one, often better than the best."""

from nncf_ext.soup.ingredients import SoupError
from nncf_ext.soup.methods import METHODS, Soup, Trial, make_soup, uniform, wise_ft
from nncf_ext.soup.running import WeightAverage

__all__ = ["METHODS", "Soup", "SoupError", "Trial", "WeightAverage", "make_soup", "uniform", "wise_ft"]
