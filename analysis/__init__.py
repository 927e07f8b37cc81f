"""From the result store to figures and tables: reads parquet, imports neither torch nor ray.

    python analysis/compare.py RESULTS

The way through: `load` reads a store, `scores` turns its runs into scored series, `stats` puts intervals on them,
`plots` and `tables` show them beside the published numbers of `reference`, `report` writes the page.
"""
