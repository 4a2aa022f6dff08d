"""Studies: methods over seeds, their tables and figures."""


def run_study(*arguments, **options) -> dict:
    """`reward_models.run_study`, without what it imports before it is called."""
    from . import reward_models
    return reward_models.run_study(*arguments, **options)
