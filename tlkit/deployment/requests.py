"""Reads the images of an HTTP request."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import flask


MAX_REQUEST_BYTES = 32 * 2**20
MAX_IMAGES = 64  # per request


def _images(request: flask.Request) -> list[bytes | str]:
    """The image files of a request, in order; for one that cannot be read, the reason instead.

    Aborts the request with 400 or 415, saying what was wrong and what was expected.
    """
    import flask

    kind = (request.mimetype or "").lower()
    found: list[bytes | str]
    if kind == "application/json":
        found = _of_json(request.get_data())
    elif kind == "multipart/form-data":
        found = [file.read() for files in request.files.listvalues() for file in files]
        if not found:
            flask.abort(400, "The form holds no file. Expected one or more files, such as curl -F image=@image.jpg.")
    elif kind.startswith("image/") or kind in ("application/octet-stream", "", "application/x-www-form-urlencoded"):
        # the last is the content type that curl sends with a file's bytes
        found = [request.get_data(parse_form_data=False)]
        if not found[0]:
            flask.abort(400, "The request is empty. Expected an image file as its body.")
    else:
        flask.abort(
            415, f"The request holds {kind[:80]}. Expected an image file, multipart/form-data or application/json."
        )
    if len(found) > MAX_IMAGES:
        flask.abort(400, f"The request holds {len(found)} images. Expected {MAX_IMAGES} at most.")
    return found


def _of_json(body: bytes) -> list[bytes | str]:
    """The image files of {"instances": [{"b64": ...}]} or {"instances": [{"image_bytes": {"b64": ...}}]}."""
    import flask

    expected = 'Expected {"instances": [{"b64": "..."}]}, each an image file in base64.'
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        flask.abort(400, f"The body is not JSON. {expected}")
    instances = asked.get("instances") if isinstance(asked, dict) else None
    if not isinstance(instances, list) or not instances:
        flask.abort(400, f"The JSON has no instances. {expected}")
    found: list[bytes | str] = []
    for one in instances:
        inner = one.get("image_bytes", one) if isinstance(one, dict) else one
        text = inner.get("b64") if isinstance(inner, dict) else None
        try:
            found.append(base64.b64decode(text, validate=True) if isinstance(text, str) else f"no b64. {expected}")
        except (binascii.Error, ValueError) as error:
            found.append(f"not base64: {error}. {expected}")
    return found
