from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import draw
from tlkit.data.augment import _build, augment, augment_all, augment_and_tell
from tlkit.plan.augmentation import AUGMENTATION_LIMITS, BORDERS, PRESETS, Augmentation

EVERYTHING = PRESETS["strong"]
IMAGE = np.asarray(draw((120, 90, 60), 1, 64))


def dot(row: int, column: int) -> np.ndarray:
    image = np.zeros((65, 65, 3), "uint8")
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
    return image


def centre(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(image[..., 0] > 100)
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_same_seed_gives_the_same_image_on_any_number_of_threads(threads: int) -> None:
    seeds = [(7, epoch, i) for epoch in range(2) for i in range(40)]
    expected = augment_all(np.stack([IMAGE] * len(seeds)), EVERYTHING, seeds)
    with ThreadPoolExecutor(threads) as pool:
        found = np.stack(list(pool.map(lambda seed: augment(IMAGE, EVERYTHING, seed), seeds)))
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
    assert (augment(IMAGE, Augmentation(flip_horizontal=1.0), (0,)) == IMAGE[:, ::-1]).all()
    assert (augment(IMAGE, Augmentation(flip_vertical=1.0), (0,)) == IMAGE[::-1]).all()


def test_a_flip_of_one_half_happens_about_half_of_the_time() -> None:
    flipped = [(augment(IMAGE, Augmentation(flip_horizontal=0.5), (3, i)) != IMAGE).any() for i in range(300)]
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


def test_a_half_turn_is_both_flips() -> None:
    assert (augment(IMAGE, Augmentation(half_turn=1.0), (0,)) == IMAGE[::-1, ::-1]).all()


def test_stretch_widens_and_lowers_by_the_same_factor() -> None:
    wide = Augmentation(stretch=(2.25, 2.25))
    assert abs(centre(augment(dot(32, 42), wide, (0,)))[1] - 47) < 1
    assert abs(centre(augment(dot(41, 32), wide, (0,)))[0] - 38) < 1


def test_a_crop_shows_its_share_of_the_area_and_nothing_from_beyond_the_edge() -> None:
    ramp = np.stack(np.broadcast_arrays(np.arange(200)[:, None], np.arange(200), 0), axis=2).astype("uint8")
    for number in range(40):
        found = augment(ramp, Augmentation(crop=(0.25, 0.25), border="black"), (number,)).astype(int)
        high, wide = found[-1, 0, 0] - found[0, 0, 0], found[0, -1, 1] - found[0, 0, 1]
        assert abs(high * wide / 200**2 - 0.25) < 0.02 and 0.7 < wide / high < 1.4
        assert (np.diff(found[:, 100, 0]) >= 0).all() and (np.diff(found[100, :, 1]) >= 0).all()


def test_contrast_moves_values_away_from_mid_grey() -> None:
    image = np.stack([np.full((4, 4), value, "uint8") for value in (100, 127, 150)], axis=2)
    assert augment(image, Augmentation(contrast=(0.4, 0.4)), (0,))[0, 0].tolist() == [89, 127, 159]
    assert np.ptp(augment(image, Augmentation(contrast=(-1, -1)), (0,))) == 0


def test_pca_colour_moves_along_the_main_axis_of_colours_most() -> None:
    grey, field = np.full((4, 4, 3), 128, "uint8"), Augmentation(pca_colour=0.5)
    moved = np.array([augment(grey, field, (i,))[0, 0] for i in range(300)]).astype(float) - 128
    assert 0.4 * 0.2175 * 255 < moved.mean(1).std() * 3**0.5 < 0.6 * 0.2175 * 255
    assert np.corrcoef(moved.T).min() > 0.9, "red, green and blue go together"


def test_a_vignette_darkens_the_corners_by_its_share_and_spares_the_middle() -> None:
    found = augment(np.full((65, 65, 3), 200, "uint8"), Augmentation(vignette=(0.5, 0.5)), (0,))
    assert found[32, 32].tolist() == [200] * 3
    assert all(abs(int(found[row, column, 0]) - 100) <= 1 for row in (0, -1) for column in (0, -1))


def test_borders_are_filled_as_asked() -> None:
    image = np.full((20, 20, 3), 50, "uint8")
    image[:, :2] = 200
    found = {
        border: augment(image, Augmentation(shift_x=(0.5, 0.5), border=border), (0,))[10, :10, 0] for border in BORDERS
    }
    assert (found["black"][:9] == 0).all() and (found["replicate"] == 200).all() and (found["wrap"] == 50).all()
    assert (found["reflect"][:9] == 50).all() and found["reflect"][9] == 200


def test_the_policy_of_one_changes_one_thing_at_a_time_or_nothing() -> None:
    policy = Augmentation(flip_horizontal=1.0, brightness=(0.2, 0.2), policy="one")
    flipped = IMAGE[:, ::-1]
    lighter = augment(IMAGE, Augmentation(brightness=(0.2, 0.2)), (0,))
    counts = [0, 0, 0]
    for number in range(90):
        found = augment(IMAGE, policy, (number,))
        counts[[(found == one).all() for one in (IMAGE, flipped, lighter)].index(True)] += 1
    assert min(counts) > 15


def test_telling_what_was_drawn_draws_the_same() -> None:
    for number in range(30):
        image, drawn = augment_and_tell(IMAGE, EVERYTHING, (3, number))
        assert (image == augment(IMAGE, EVERYTHING, (3, number))).all()
        for name, value in drawn.items():
            asked = getattr(EVERYTHING, name)
            if isinstance(asked, tuple):
                assert asked[0] - 0.02 <= value <= asked[1] + 0.02, (name, value)
        assert {"rotate", "zoom", "brightness", "vignette", "crop", "stretch"} <= set(drawn)
    one = PRESETS["trivial"]
    assert {len(augment_and_tell(IMAGE, one, (number,))[1]) for number in range(40)} == {0, 1}


@pytest.mark.parametrize("name", AUGMENTATION_LIMITS)
def test_every_field_changes_images_alone_and_within_its_full_range(name: str) -> None:
    low, high = AUGMENTATION_LIMITS[name]
    field = Augmentation(**{name: (low, high) if isinstance(getattr(Augmentation, name), tuple) else high})
    assert field.fields() == (name,)
    found = [augment(IMAGE, field, (number,)) for number in range(8)]
    assert all(image.shape == IMAGE.shape and image.dtype == "uint8" for image in found)
    assert any((image != IMAGE).any() for image in found)


def test_presets_grow_stronger() -> None:
    ranges = {name: preset.rotate[1] for name, preset in PRESETS.items()}
    assert PRESETS["none"].is_identity() and 0 < ranges["light"] < ranges["standard"] < ranges["strong"]
    assert set(PRESETS["strong"].fields()) == set(AUGMENTATION_LIMITS), "strong leaves nothing out"
    assert PRESETS["trivial"].policy == "one"


def test_an_identity_augmentation_returns_the_same_image() -> None:
    assert augment(IMAGE, Augmentation(), (0,)) is IMAGE


def test_importing_it_asks_nothing_of_the_network() -> None:
    code = (
        "import socket, numpy as np\n"
        "def refuse(*a, **k): raise SystemExit('the network was asked')\n"
        "socket.create_connection = socket.getaddrinfo = refuse\n"
        "from tlkit.data.augment import augment\nfrom tlkit.plan.augmentation import Augmentation\n"
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
            augment(IMAGE, Augmentation(rotate=(-degrees, degrees), brightness=(-0.1, 0.1)), (0,))
    finally:
        done.set()
        watcher.join()
    assert len(seen) > 10 and all(seen)
