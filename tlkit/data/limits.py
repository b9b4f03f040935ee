"""How many pixels an image may have. Larger ones are left out before they are decoded."""

from __future__ import annotations

# Larger images are refused by their header, in `scan` and in the exported graph alike. JPEG may be larger,
# because it can be decoded at an eighth of its size, unless it is progressive: then all of it is held in memory.
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 200_000_000
