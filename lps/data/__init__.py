"""Datasets: found or downloaded (download), made on the spot (collect), and loaded for training (dataset)."""

from lps.data.collect import collect
from lps.data.files import data_dir

__all__ = ["collect", "data_dir"]
