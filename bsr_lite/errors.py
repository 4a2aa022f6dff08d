"""What a user can mend: one line that names the file, row or key, and the way out."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Ends a command in one line instead of a traceback."""


class ConfigError(UserError):
    """A config that cannot be run; the message names the file, the key and the fix."""


class DataError(UserError):
    """Input that cannot be used; the message names the file, the row and the fix."""


class ModelError(UserError):
    """A model that cannot be built or loaded; the message says what to do."""


class TrainingError(UserError):
    """Training that cannot go on; the message names the step, the rows and the last checkpoint."""


def run(main: Callable[[], None]) -> None:
    """What every command ends in: a UserError of `main` as one line on stderr, exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
