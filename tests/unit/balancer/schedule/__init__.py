"""Schedulers against plain-Python oracles."""
