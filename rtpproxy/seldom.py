"""Thinning out log lines about what may happen for every packet."""


def is_worth_a_line(count: int) -> bool:
    """True for the 1st, 2nd, 4th, 8th and so on of events of one kind; `count` is how many there were, at least 1."""
    return count & (count - 1) == 0
