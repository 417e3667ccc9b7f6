"""Fuzz targets, one per parser. `./dev fuzz [TARGET …] [--seconds N]` runs them; the unit tests run a small corpus.

A target (targets/NAME.py) opens with its invariant, and has SEEDS and `opened()`, a context that yields check(data),
which raises when the invariant is broken.
"""
