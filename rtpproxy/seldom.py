"""Thins out log lines about events that may happen for every packet."""


def is_worth_a_line(count: int) -> bool:
    """True for the 1st, 2nd, 4th, 8th and so on event of one kind; `count` is their number so far, at least 1."""
    return count & (count - 1) == 0
