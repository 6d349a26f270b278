"""Rewards, rows and labels that RESULTS.md shows to be no better than the defaults.

Each one is still a single override away. Nothing in `method` or `data` depends on this package.
"""
