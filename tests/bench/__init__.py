"""Measurements behind the claims about speed: `python -m tests.bench`.

Absolute figures belong to the machine and the hour. What counts is the ratio to a reference that does the same work in
the same run, round by round in turn; and only if the data is whole afterwards.
"""
