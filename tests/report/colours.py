"""How well a text can be read on a colour, by WCAG 2.2."""

import numpy as np


def rgb(text):
    return np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)], dtype=float)


def luminance(colour):
    """Relative luminance of WCAG 2.2."""
    part = colour / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
