"""The one exception for mistakes a user can mend."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names the flag or file, the value and the remedy.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class TrainingError(RuntimeError):
    """Training can't go on; the message names the rollout, what was seen and the likely causes.

    The command line prints the message alone and exits with code 1.
    """
