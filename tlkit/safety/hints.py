"""Hints from class names, such as left and right, b and d, 6 and 9."""

from __future__ import annotations

from collections.abc import Sequence

_MIRROR_FIELDS = ("flip_horizontal", "half_turn")
_TURN_FIELDS = ("flip_vertical", "half_turn", "rotate")

_OPPOSITES: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("left", "right"), _MIRROR_FIELDS),
    (("east", "west"), _MIRROR_FIELDS),
    (("clockwise", "counterclockwise"), ("flip_horizontal", "flip_vertical")),
    (("up", "down"), _TURN_FIELDS),
    (("top", "bottom"), _TURN_FIELDS),
    (("north", "south"), _TURN_FIELDS),
]
_EXCHANGED: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("6", "9"), ("half_turn", "rotate", "flip_vertical")),
    (("six", "nine"), ("half_turn", "rotate", "flip_vertical")),
    (("2", "5"), ("flip_vertical", "flip_horizontal")),
    (("b", "d"), _MIRROR_FIELDS[:1]),
    (("p", "q"), _MIRROR_FIELDS[:1]),
    (("b", "p"), _TURN_FIELDS[:1]),
    (("d", "q"), _TURN_FIELDS[:1]),
    (("n", "u"), _TURN_FIELDS),
    (("m", "w"), _TURN_FIELDS),
    (("b", "q"), ("half_turn", "rotate")),
    (("d", "p"), ("half_turn", "rotate")),
]


def name_hints(class_names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Hints from class names, each with the fields it concerns. They are hints, not proofs.

    >>> name_hints(["turn_left", "turn_right"])[0][1]
    ('flip_horizontal', 'half_turn')
    """
    names = {name.casefold() for name in class_names}
    words = {word for name in names for word in _words(name)}
    hints: list[tuple[str, tuple[str, ...]]] = []
    for pair, fields in _OPPOSITES:
        if words >= set(pair):
            hints.append((f"class names contain '{pair[0]}' and '{pair[1]}'", fields))
    for pair, fields in _EXCHANGED:
        if names >= set(pair):
            hints.append((f"classes are named '{pair[0]}' and '{pair[1]}'", fields))
    return hints


def exchanged(class_names: Sequence[str], fields: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of class numbers, in both orders, that one of the fields exchanges according to the names.

    >>> exchanged(["b", "d", "o"], ["flip_horizontal"])
    [(0, 1), (1, 0)]
    """
    index = {name.casefold(): number for number, name in enumerate(class_names)}
    pairs = [pair for pair, mine in _EXCHANGED if set(mine) & set(fields) and set(pair) <= set(index)]
    return [(index[a], index[b]) for pair in pairs for a, b in (pair, pair[::-1])]


def _words(name: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in name).split()
