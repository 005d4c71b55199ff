"""diffedit interpolate"""


def interpolate() -> None:
    """TODO"""
