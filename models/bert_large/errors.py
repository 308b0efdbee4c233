"""Errors that users can fix: the command line prints them as one line and exits with their code."""

from __future__ import annotations


class UserError(Exception):
    """An error the user can fix. Its message says what was found, what was expected and how to fix it."""

    exit_code = 1
    reported_by_another_rank = False
    """Whether another rank of this host has the same error and prints it."""


class InputError(UserError):
    """A setting or an input file is missing or wrong; raised before any work starts."""

    exit_code = 2


class DataError(InputError):
    """A data record breaks its format; the message names the file and the record."""


class DamageError(InputError):
    """A file that this package wrote has changed; the message names the file and the difference."""


class WriteError(UserError):
    """A file could not be written, for example on a full disk; the message names the file and the free space."""
