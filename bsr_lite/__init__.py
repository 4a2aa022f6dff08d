"""bsr_lite: Bradley-Terry reward models and batch-wise sum-to-zero regularization (BSR)."""

__version__ = "0.2.0"
