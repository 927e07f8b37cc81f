"""From the result store to figures and tables: reads parquet, imports neither torch nor ray.

python -m analysis report RESULTS...   one HTML file with everything
python -m analysis compare RESULTS...  a folder with each figure and table as files; so does analysis/compare.py

results/  load.py reads stores, select.py excludes runs, study.py makes scored series, settings.py finds the rivals,
          version1.py fills in roles and titles for old results
numbers/  stats.py (intervals and tests), summaries.py, comparisons.py, claims.py, published.py (others' numbers)
plots/    one file per figure, made with matplotlib; PLOTS
page/     headline.py (the first screen), charts.py (interactive figures), tables.py, html.py and page.html
"""
