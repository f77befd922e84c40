"""LabError: the one error that a person using the lab can do something about."""


class LabError(Exception):
    """One sentence: what is wrong, and the remedy. Commands print it and end with exit code 2."""
