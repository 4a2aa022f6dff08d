"""Studies: methods over seeds, their tables and figures."""


def __getattr__(name: str):
    """`from bsr_lite.studies import run_study`, without what it imports before it is asked for."""
    if name == "run_study":
        from .reward_models import run_study
        return run_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
