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


class WriteError(TrainingError):
    """A full disk, or one that is gone; the message names the file and the room that is left."""


def run(main: Callable[[], None]) -> None:
    """What every command ends in: one line on stderr for a UserError of `main`, or for a file that
    is not there or refused (exit code 1), and for Ctrl-C (130). All else is a bug of ours, and
    stays a traceback."""
    try:
        main()
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and not error.filename:  # a connection's
            raise
        sys.exit("; ".join([f"error: {error}", *getattr(error, "__notes__", [])]))
    except KeyboardInterrupt as error:
        print("stopped", *getattr(error, "__notes__", []), sep="; ", file=sys.stderr)
        sys.exit(130)
