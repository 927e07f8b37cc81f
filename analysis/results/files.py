"""Files with the numbers behind tables and figures."""

from pathlib import Path

import pandas as pd

from lps.files import csv_cell


def write_csv(data: pd.DataFrame, path: Path) -> None:
    """Write a table as a CSV file without an index; no cell and no name of a column is a formula."""
    data.rename(columns=csv_cell).map(csv_cell).to_csv(path, index=False)
