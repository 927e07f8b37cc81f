"""Datasets: found or downloaded (download), made on the spot (collect), and loaded for training (dataset).

A file that is damaged on disk is noticed by its checksum (integrity), and made or downloaded again where it can be.
"""

from lps.data.collect import collect
from lps.data.dataset import Dataset, load_dataset
from lps.data.download import dataset_path
from lps.data.files import data_dir

__all__ = ["Dataset", "collect", "data_dir", "dataset_path", "load_dataset"]
