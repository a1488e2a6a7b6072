"""Colours of the pictures, RGB. After Paul Tol's schemes, which readers with colour blindness can tell apart."""

Colour = tuple[int, int, int]

BACKGROUND: Colour = (246, 247, 249)
CARD: Colour = (255, 255, 255)
INK: Colour = (33, 37, 41)
MUTED: Colour = (104, 112, 120)
GRID: Colour = (227, 231, 235)
EMPTY: Colour = (241, 243, 245)
ACCENT: Colour = (204, 51, 17)

FORCED: Colour = (27, 54, 88)
DECISIONS: dict[str, Colour] = {"compute": (68, 119, 170), "reuse": (243, 222, 160), "predict": (238, 119, 51),
                                "partial": (102, 204, 238), "derive": (170, 51, 119)}

FIRST_STEP: Colour = (219, 232, 245)
LAST_STEP: Colour = (12, 68, 128)
PASSES: dict[str, Colour] = {"prefix": (150, 158, 166), "commit": (238, 119, 51), "near_clean": (170, 51, 119),
                             "recache": (0, 153, 136)}
SERIES: tuple[Colour, ...] = ((68, 119, 170), (238, 119, 51), (34, 136, 51), (170, 51, 119), (102, 204, 238),
                              (187, 187, 68))


def blend(first: Colour, last: Colour, share: float) -> Colour:
    """The colour `share` (0..1) of the way from `first` to `last`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, last, strict=True))
