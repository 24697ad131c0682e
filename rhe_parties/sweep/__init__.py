"""A grid of runs as Ray tasks, resumable at any moment, with one record per cell and one table of all.

To read a sweep from Python: `rhe_parties.sweep.results.load_sweep`.
"""
