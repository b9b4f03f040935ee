"""One pool of two workers for all tests of this room: each imports TensorFlow once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tlkit.cluster import Pool, pool


@pytest.fixture(scope="package")  # it holds all of the cluster, which tests of other rooms need too
def workers(ray_cluster: None) -> Iterator[Pool]:
    with pool("ray") as found:
        yield found
