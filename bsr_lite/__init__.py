"""bsr_lite: Bradley-Terry reward models and batch-wise sum-to-zero regularization (BSR)."""

import sys

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # Python is about to run `python -m bsr_lite.<command>`
    from .cli import help_first
    help_first(sys.orig_argv)
