"""Serves a classifier to try it out: a local page and a JSON endpoint, for one user on one machine.

For production, use TensorFlow Serving. Flask reads requests and Waitress serves them; both limit the size of a request.
Images are processed one at a time, to bound memory.
"""

from __future__ import annotations

import base64
import io
import secrets
import socket
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import flask
from waitress.server import create_server
from werkzeug.exceptions import HTTPException

from tlkit.data.convert import Unreadable, convert
from tlkit.data.headers import why_not
from tlkit.deployment.exported import decoded_pixels
from tlkit.deployment.requests import MAX_IMAGES, MAX_REQUEST_BYTES, _images
from tlkit.deployment.saved_model import UNSURE
from tlkit.errors import RunError, SpecError, TlkitError
from tlkit.evaluation.saliency import GradCam, occlusion_maps, overlay
from tlkit.progress import log
from tlkit.runs.folder import open_run
from tlkit.runs.reading import load_model, open_exported

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVIDENCE_PIXELS = 384  # a saliency map is enlarged to this side if the model's images are smaller
Answers = list[dict[str, Any]]


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a run, or an exported folder, until interrupted.

    What the model itself does not decode, such as TIFF and HEIC, is converted first: see `tlkit.convert`.

    POST /predict takes one image file as the body, files of a form, or the JSON of TensorFlow Serving's REST interface,
    {"instances": [{"b64": ...}]}; 32 MiB and 64 images at most. `?evidence=1` adds a saliency map as a PNG data URI.

    It answers {"predictions": [{"ok", "problem", "class", "probability", "sure", "probabilities": {class: number}}]},
    with a row for each image. An image that cannot be read has `ok` false and its `problem`; the others are answered.
    Errors of the request give {"error": ...} with status 400, 403, 404, 405, 413 or 415.

    Args:
        model: A run's folder, which also gives saliency maps, or a folder that `tlkit export` wrote.
        host: The address to listen at. The default answers only this machine.
        port: 0 takes any free port.

    Raises:
        SpecError: The port is outside 0 to 65535.
        RunError: The model cannot be loaded, or the address is taken.
    """
    if not 0 <= port <= 65535:
        raise SpecError(f"`port` is {port}. Expected 0 to 65535.")
    app = make_app(model, host=host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"Cannot listen at {host}, port {port}: {error}. "
            "Give another `port` (0 takes any free port), or another `host`."
        ) from error
    with listening:
        server = create_server(
            app,
            sockets=[listening],
            threads=4,
            max_request_body_size=2 * MAX_REQUEST_BYTES,  # beyond Flask's limit, which answers in JSON; this one closes
            max_request_header_size=16 * 1024,
            channel_timeout=30,
            ident="tlkit",
        )
        shown = f"[{host}]" if ":" in host else host
        log.info(f"serving  {model} at http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C to stop)")
        if host not in LOOPBACK:
            log.info("note     anyone who can reach this machine can use it: there is no password and no encryption")
        try:
            server.run()
        finally:
            server.close()


def make_app(model: str | Path, *, host: str = "127.0.0.1") -> flask.Flask:
    """The page and the endpoint as a WSGI application.

    host: the address it will listen at. On loopback, requests for another host name are refused.
    """
    app = flask.Flask("tlkit", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_IMAGES + 8
    _guard(app, host)
    _answer(app, _Answerer(model), host)
    _word_errors(app)
    return app


def _guard(app: flask.Flask, host: str) -> None:
    """Refuse requests for another host name, and set headers against content sniffing and caching."""

    @app.before_request
    def check_host() -> None:
        """Against DNS rebinding: a foreign page whose name points here still sends its own name as Host."""
        name = flask.request.host.rsplit(":", 1)[0].strip("[]") if flask.request.host else ""
        if host in LOOPBACK and name not in LOOPBACK:
            flask.abort(403, f"This server answers only at {host}, but the request's host is '{name[:100]}'.")

    @app.after_request
    def set_headers(response: flask.Response) -> flask.Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response


def _answer(app: flask.Flask, answerer: _Answerer, host: str) -> None:
    """Add the page at /, the endpoint at /predict, and an empty answer for the icon."""
    page = resources.files("tlkit.deployment").joinpath("serve.html.jinja").read_text(encoding="utf-8")

    @app.get("/")
    def show() -> flask.Response:
        nonce = secrets.token_urlsafe(16)
        html = flask.render_template_string(
            page,
            nonce=nonce,
            title=answerer.title,
            classes=answerer.names,
            evidence=answerer.explains,
            local=host in LOOPBACK,
            megabytes=MAX_REQUEST_BYTES // 2**20,
        )
        response = flask.Response(html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return response

    @app.post("/predict")
    def predict() -> flask.Response:
        evidence = flask.request.args.get("evidence", "0") not in ("0", "", "false")
        return flask.jsonify(predictions=answerer(_images(flask.request), evidence))

    @app.get("/favicon.ico")
    def icon() -> flask.Response:
        return flask.Response(status=204)


def _word_errors(app: flask.Flask) -> None:
    """Answer errors with JSON that gives the reason."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[flask.Response, int]:
        message = error.description or error.name
        if error.code == 413:
            message = (
                f"The request is larger than {MAX_REQUEST_BYTES // 2**20} MiB or has too many parts. "
                "Send smaller or fewer images."
            )
        if error.code in (404, 405):
            message = "Expected GET / or POST /predict."
        return flask.jsonify(error=message), error.code or 500

    @app.errorhandler(TlkitError)
    def ours(error: TlkitError) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(error)), 400


class _Answerer:
    """Predicts image files, one at a time; for a run, also with saliency maps."""

    def __init__(self, model: str | Path) -> None:
        self.title = Path(model).absolute().name
        self.names, self._ask = open_exported(model)
        self._lock = threading.Lock()
        self.explains = (Path(model) / "plan.json").is_file()
        if self.explains:
            run = open_run(model)
            self._model, self._square = load_model(run), (run.plan.image_size, run.plan.job.fit, run.plan.depth)
            self._cam = self._grad_cam()

    def _grad_cam(self) -> Any:
        try:
            return GradCam(self._model, batch_size=1)
        except SpecError:  # no feature maps before the head
            return None

    def __call__(self, images: Sequence[bytes | str], evidence: bool) -> Answers:
        return [_unanswered(one) if isinstance(one, str) else self._one(one, evidence) for one in images]

    def _one(self, data: bytes, evidence: bool) -> dict[str, Any]:
        with self._lock:  # one image at a time, to bound memory
            try:
                data = convert(data)
            except Unreadable as reason:
                return _unanswered(str(reason))
            oks, sures, values = self._ask([data])
            if not oks[0]:
                return _unanswered(": ".join(why_not(data)))
            best = int(values[0].argmax())
            answer = {
                "ok": True,
                "problem": "",
                "class": self.names[best] if sures[0] else UNSURE,
                "probability": float(values[0][best]),
                "sure": bool(sures[0]),
                "probabilities": {name: float(value) for name, value in zip(self.names, values[0], strict=True)},
            }
            if evidence and self.explains:
                answer["evidence"] = self._drawn(data, best)
            return answer

    def _drawn(self, data: bytes, chosen: int) -> str:
        """The image, as the model sees it, with its saliency map drawn over it: a PNG as a data URI."""
        from PIL import Image

        image = decoded_pixels(data, *self._square)
        if self._cam is not None:
            heat = self._cam(image[None], [chosen])[0][0]
        else:
            heat = occlusion_maps(self._model, image[None], [chosen])[0]
        drawn = Image.fromarray(overlay(image, heat))
        drawn = drawn.resize((EVIDENCE_PIXELS, EVIDENCE_PIXELS)) if self._square[0] < EVIDENCE_PIXELS else drawn
        out = io.BytesIO()
        drawn.save(out, "PNG")
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _unanswered(problem: str) -> dict[str, Any]:
    return {"ok": False, "problem": problem, "class": "", "probability": 0.0, "sure": False, "probabilities": {}}
