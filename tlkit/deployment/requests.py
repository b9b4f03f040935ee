"""Reads the images of an HTTP request to /predict."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tlkit.deployment.work import Refused

if TYPE_CHECKING:
    import flask


MAX_REQUEST_BYTES = 32 * 2**20
MAX_IMAGES = 64  # per request
EXPECTED = 'Expected {"instances": [{"b64": "..."}]}, each an image file in base64.'
_UNSAID = ("application/octet-stream", "", "application/x-www-form-urlencoded", "text/plain")  # curl sends the third


def _images(request: flask.Request) -> list[bytes | str]:
    """The image files of a request, in order; for one that cannot be read, the reason instead.

    JSON and data URLs are also known by how they begin, if the header does not say what the body is.
    Aborts the request with 400 or 415, saying what was wrong and what was expected. Raises Refused with status 413 for
    too many images.
    """
    import flask

    kind = (request.mimetype or "").lower()
    found: list[bytes | str]
    if kind == "multipart/form-data":
        found = [file.read() for files in request.files.listvalues() for file in files]
        if not found:
            flask.abort(400, "The form holds no file. Expected one or more files, such as curl -F image=@image.jpg.")
    elif kind == "application/json" or kind.endswith("+json"):
        found = _of_json(request.get_data())
    elif kind in _UNSAID or kind.startswith("image/"):
        body = request.get_data(parse_form_data=False)
        if not body:
            flask.abort(400, "The request is empty. Expected an image file as its body.")
        start = body[:64].lstrip()[:5]
        if kind in _UNSAID and start[:1] in (b"{", b"["):  # no image begins so
            found = _of_json(body)
        elif start.lower() == b"data:":
            found = [_decoded(body.decode("latin-1"))]
        else:
            found = [body]
    else:
        flask.abort(
            415,
            f"The request holds {kind[:80]}. Expected an image file (image/jpeg, application/octet-stream), "
            "multipart/form-data or application/json.",
        )
    if len(found) > MAX_IMAGES:
        raise Refused(f"The request holds {len(found)} images. Expected {MAX_IMAGES} at most.", 413)
    return found


def decoded_base64(encoded: str) -> bytes:
    """Decode base64, also in a data URL ("data:image/png;base64,..."), in lines, for URLs, or without padding.

    Raises ValueError, saying what is wrong, for anything else.
    """
    if encoded[:5].lower() == "data:":
        head, comma, encoded = encoded.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data URL without ';base64,'")
    encoded = "".join(encoded.split()).replace("-", "+").replace("_", "/")
    if "%" in encoded:
        raise ValueError("it is percent-encoded")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _decoded(text: str) -> bytes | str:
    try:
        return decoded_base64(text)
    except ValueError as error:
        return f"not base64: {error}. {EXPECTED}"


def _of_json(body: bytes) -> list[bytes | str]:
    """The image files of {"instances": [...]} or {"inputs": [...]}, in the forms that TensorFlow Serving takes."""
    import flask

    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        flask.abort(400, f"The body is not JSON. {EXPECTED}")
    rows = None
    if isinstance(asked, dict):
        rows = asked["instances"] if "instances" in asked else asked.get("inputs")
        if isinstance(rows, dict) and "b64" not in rows:  # columns by name: the model has one
            rows = rows.get("image_bytes")
        if isinstance(rows, dict):
            rows = [rows]
    if not isinstance(rows, list) or not rows:
        flask.abort(400, f"The JSON has no instances. {EXPECTED}")
    return [_of_row(row) for row in rows]


def _of_row(row: Any) -> bytes | str:
    inner = row.get("image_bytes", row) if isinstance(row, dict) else row
    if isinstance(inner, str) and inner[:5].lower() == "data:":
        return _decoded(inner)
    text = inner.get("b64") if isinstance(inner, dict) else None
    return _decoded(text) if isinstance(text, str) else f"no b64. {EXPECTED}"
