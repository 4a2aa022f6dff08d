"""Checkers of the notebooks' exercises."""
