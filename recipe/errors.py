"""The errors that Duet raises on purpose.

Each says what was given, what is allowed, and how to mend it, in one message; the
scripts in `launch/` print it without a traceback and leave with `exit_status`.

    DuetError
    ├── ConfigError      the recipe, its overrides or the way it was launched
    ├── DataError        a dataset that is missing, corrupt or out of range
    ├── RecordError      the run folder: occupied, not writable, disk full
    ├── DivergedError    the loss or a weight is not finite; the record is kept
    ├── LostError        another rank has died or frozen; the record is kept
    └── StoppedError     the run was asked to stop, and has saved what it needs to go on
"""


class DuetError(Exception):
    exit_status = 2
    of_one_rank = False  # others do not meet it, so its own rank has to say it


class ConfigError(DuetError, ValueError):
    pass


class DataError(DuetError):
    pass


class RecordError(DuetError):
    pass


class DivergedError(DuetError, ArithmeticError):
    exit_status = 1


class LostError(DuetError):
    exit_status = 1


class StoppedError(DuetError):
    exit_status = 75  # EX_TEMPFAIL of sysexits.h: to be tried again
