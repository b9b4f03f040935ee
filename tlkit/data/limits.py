"""The largest number of pixels per image, and the depths of images. Larger images are left out undecoded."""

from __future__ import annotations

# Both `scan` and the exported graph refuse larger images by their header. A JPEG may be larger, because libjpeg can
# decode it at half of its size; a smaller one is decoded in full, as every other client does. A progressive JPEG may
# not be larger, because it is held in memory in full.
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 200_000_000
REDUCED_BY = 2  # a JPEG of more than `MAX_PIXELS`

DEPTHS = (8, 10, 12, 14, 16)  # bits that images of 16 bits a channel may use
FULL_DEPTH = DEPTHS[-1]

# More than any image of so many pixels needs, at 8 bytes a pixel and with a film behind it. A larger file, such as a
# disk image under a picture's name, is left out unread.
MAX_FILE_BYTES = 512 * 2**20
