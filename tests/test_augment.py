from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import draw
from tlkit.augment import _build, augment, augment_all
from tlkit.spec import Augmentation

EVERYTHING = Augmentation(
    shift_x=(-0.2, 0.2),
    shift_y=(-0.2, 0.2),
    zoom=(0.8, 1.3),
    rotate=(-30, 30),
    flip_horizontal=0.5,
    flip_vertical=0.5,
    brightness=(-0.2, 0.2),
    colour_cast=(-0.1, 0.1),
)
PICTURE = np.asarray(draw((120, 90, 60), 1, 64))


def dot(row: int, column: int) -> np.ndarray:
    image = np.zeros((65, 65, 3), "uint8")
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
    return image


def centre(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(image[..., 0] > 100)
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_same_seed_gives_the_same_picture_on_any_number_of_threads(threads: int) -> None:
    seeds = [(7, epoch, i) for epoch in range(2) for i in range(40)]
    expected = augment_all(np.stack([PICTURE] * len(seeds)), EVERYTHING, seeds)
    with ThreadPoolExecutor(threads) as pool:
        found = np.stack(list(pool.map(lambda seed: augment(PICTURE, EVERYTHING, seed), seeds)))
    assert (found == expected).all()
    assert len({image.tobytes() for image in expected}) > 70


def test_shift_moves_right_and_down() -> None:
    row, column = centre(augment(dot(32, 32), Augmentation(shift_x=(0.2, 0.2), shift_y=(0.1, 0.1)), (0,)))
    assert abs(column - (32 + 0.2 * 65)) < 1 and abs(row - (32 + 0.1 * 65)) < 1


def test_zoom_above_one_enlarges() -> None:
    _, column = centre(augment(dot(32, 42), Augmentation(zoom=(1.5, 1.5)), (0,)))
    assert abs(column - 47) < 1


def test_rotation_is_counter_clockwise() -> None:
    row, column = centre(augment(dot(32, 52), Augmentation(rotate=(90, 90)), (0,)))
    assert abs(row - 12) < 1 and abs(column - 32) < 1  # from the right to the top


def test_flips() -> None:
    assert (augment(PICTURE, Augmentation(flip_horizontal=1.0), (0,)) == PICTURE[:, ::-1]).all()
    assert (augment(PICTURE, Augmentation(flip_vertical=1.0), (0,)) == PICTURE[::-1]).all()


def test_a_flip_of_one_half_happens_about_half_of_the_time() -> None:
    flipped = [(augment(PICTURE, Augmentation(flip_horizontal=0.5), (3, i)) != PICTURE).any() for i in range(300)]
    assert 0.4 < np.mean(flipped) < 0.6


def test_brightness_is_a_share_of_255() -> None:
    grey = np.full((4, 4, 3), 100, "uint8")
    assert np.abs(augment(grey, Augmentation(brightness=(0.2, 0.2)), (0,)).astype(int) - 151).max() <= 1


def test_colour_cast_shifts_each_channel_by_itself_within_its_range() -> None:
    grey = np.full((4, 4, 3), 100, "uint8")
    shifts = (
        np.array([augment(grey, Augmentation(colour_cast=(-0.1, 0.1)), (i,))[0, 0] for i in range(60)]).astype(int)
        - 100
    )
    assert np.abs(shifts).max() <= 26 and (np.ptp(shifts, axis=1) > 5).any()
    assert (shifts.min(axis=0) < -10).all() and (shifts.max(axis=0) > 10).all()


def test_nothing_to_do_gives_the_very_picture() -> None:
    assert augment(PICTURE, Augmentation(), (0,)) is PICTURE


def test_importing_it_asks_nothing_of_the_network() -> None:
    code = (
        "import socket, numpy as np\n"
        "def refuse(*a, **k): raise SystemExit('the network was asked')\n"
        "socket.create_connection = socket.getaddrinfo = refuse\n"
        "from tlkit.augment import augment\nfrom tlkit.spec import Augmentation\n"
        "augment(np.zeros((8, 8, 3), 'uint8'), Augmentation(rotate=(-9, 9)), (0,))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "/usr/bin", "HOME": "/nonexistent"})


def test_albumentations_knows_every_argument_it_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _build(EVERYTHING)


def test_building_on_a_thread_changes_no_warning_filter_of_others() -> None:
    """Filters are shared by all threads: one that is changed on a worker makes other threads' warnings errors."""
    before = list(warnings.filters)
    seen = []

    def look() -> None:
        while not done.is_set():
            seen.append(list(warnings.filters) == before)

    done = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for degrees in range(40):
            augment(PICTURE, Augmentation(rotate=(-degrees, degrees), brightness=(-0.1, 0.1)), (0,))
    finally:
        done.set()
        watcher.join()
    assert len(seen) > 10 and all(seen)
