from tests.helpers.pictures import drawn, undrawn

__all__ = ["drawn", "undrawn"]
