"""The errors that Duet raises on purpose.

Each message says what was given, what is allowed, and what to do; the scripts in
`launch/` print it without a traceback and exit with `exit_status`.

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
    of_one_rank = False  # raised on one rank alone, which has to print it


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
    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again
