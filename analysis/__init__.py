"""From the result store to figures and tables: reads parquet, imports neither torch nor ray.

    python -m analysis report RESULTS...   one HTML file with everything
    python -m analysis compare RESULTS...  a folder with each figure and table as files; so does analysis/compare.py

The way through: `load` reads stores, `selection` leaves runs out, `scores` turns the others into scored series,
`settings` says which of them are rivals and which are points of another study, `stats` puts intervals on them and tests
them, `summaries` and `comparisons` hold the numbers, `claims` what they support; `plots` and `tables` show them beside
the published numbers of `reference`, `report` and `page` put all of it together.
"""
