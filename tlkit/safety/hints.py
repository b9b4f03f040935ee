"""What the names of the classes suggest: left and right, b and d, 6 and 9."""

from __future__ import annotations

from collections.abc import Sequence

_MIRRORED = ("flip_horizontal", "half_turn")
_TURNED = ("flip_vertical", "half_turn", "rotate")

_OPPOSITES: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("left", "right"), _MIRRORED),
    (("east", "west"), _MIRRORED),
    (("clockwise", "counterclockwise"), ("flip_horizontal", "flip_vertical")),
    (("up", "down"), _TURNED),
    (("top", "bottom"), _TURNED),
    (("north", "south"), _TURNED),
]
_EXCHANGED: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("6", "9"), ("half_turn", "rotate", "flip_vertical")),
    (("six", "nine"), ("half_turn", "rotate", "flip_vertical")),
    (("2", "5"), ("flip_vertical", "flip_horizontal")),
    (("b", "d"), _MIRRORED[:1]),
    (("p", "q"), _MIRRORED[:1]),
    (("b", "p"), _TURNED[:1]),
    (("d", "q"), _TURNED[:1]),
    (("n", "u"), _TURNED),
    (("m", "w"), _TURNED),
    (("b", "q"), ("half_turn", "rotate")),
    (("d", "p"), ("half_turn", "rotate")),
]


def name_hints(class_names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """What the names of classes suggest, and about which fields: a hint, never a proof.

    >>> name_hints(["turn_left", "turn_right"])[0][1]
    ('flip_horizontal', 'half_turn')
    """
    names = {name.casefold() for name in class_names}
    words = {word for name in names for word in _words(name)}
    hints: list[tuple[str, tuple[str, ...]]] = []
    for pair, fields in _OPPOSITES:
        if words >= set(pair):
            hints.append((f"class names hold '{pair[0]}' and '{pair[1]}'", fields))
    for pair, fields in _EXCHANGED:
        if names >= set(pair):
            hints.append((f"classes are called '{pair[0]}' and '{pair[1]}'", fields))
    return hints


def exchanged(class_names: Sequence[str], fields: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of classes, by number and both ways, that their names say one of the fields exchanges.

    >>> exchanged(["b", "d", "o"], ["flip_horizontal"])
    [(0, 1), (1, 0)]
    """
    place = {name.casefold(): number for number, name in enumerate(class_names)}
    pairs = [pair for pair, mine in _EXCHANGED if set(mine) & set(fields) and set(pair) <= set(place)]
    return [(place[a], place[b]) for pair in pairs for a, b in (pair, pair[::-1])]


def _words(name: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in name).split()
