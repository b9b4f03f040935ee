"""Try a classifier out: one local page and one JSON endpoint, for one person on one machine. For production there is TensorFlow Serving.

Flask reads requests, Waitress serves them; both bound what they take. One picture is worked on at a time, so memory stays that of one.
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

from tlkit.data.pixels import why_not
from tlkit.deployment.exported import decoded_pixels
from tlkit.deployment.requests import MAX_IMAGES, MAX_REQUEST_BYTES, _images
from tlkit.deployment.saved_model import UNSURE
from tlkit.errors import RunError, SpecError, TlkitError
from tlkit.evaluation.saliency import GradCam, occlusion_maps, overlay
from tlkit.progress import log
from tlkit.runs.folder import open_run
from tlkit.runs.reading import load_model, open_exported

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVIDENCE_PIXELS = 384  # of the drawn map's side, at most
Answers = list[dict[str, Any]]


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a run, or an exported folder, until interrupted.

    model: a run's folder, which also shows where the evidence lies, or what `tlkit export` wrote. host: the address to listen at; the default
    answers this machine alone. port: 0 takes any that is free.

    POST /predict takes one image file as the body, files of a form, or the JSON of TensorFlow Serving's REST interface,
    {"instances": [{"b64": ...}]}; 32 MiB and 64 images at most. `?evidence=1` adds a picture of where the evidence lies.
    Answers {"predictions": [{"ok", "problem", "class", "probability", "sure", "probabilities": {class: number}}]}, a row for each image: one that
    cannot be read has `ok` false and its `problem`, the others are answered. Errors of the request: {"error": ...} with 400, 403, 404, 405,
    413 or 415.

    Raises RunError when the model does not load or the address is taken.
    """
    if not 0 <= port <= 65535:
        raise SpecError(f"`port` is {port}. Expected 0 to 65535.")
    app = make_app(model, host=host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"Cannot listen at {host}, port {port}: {error}. Give another `port` (0 takes any that is free), or another `host`."
        ) from error
    with listening:
        server = create_server(
            app,
            sockets=[listening],
            threads=4,
            max_request_body_size=2 * MAX_REQUEST_BYTES,  # Flask's own limit answers in JSON; this one hangs up
            max_request_header_size=16 * 1024,
            channel_timeout=30,
            ident="tlkit",
        )
        shown = f"[{host}]" if ":" in host else host
        log.info(f"serving  {model} at http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
        if host not in LOOPBACK:
            log.info("note     anyone who can reach this machine can ask it; there is no password and no encryption")
        try:
            server.run()
        finally:
            server.close()


def make_app(model: str | Path, *, host: str = "127.0.0.1") -> flask.Flask:
    """The page and the endpoint as a WSGI application. host: what it will listen at; on loopback, requests by another name are refused."""
    app = flask.Flask("tlkit", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_IMAGES + 8
    _guard(app, host)
    _answer(app, _Answerer(model), host)
    _word_errors(app)
    return app


def _guard(app: flask.Flask, host: str) -> None:
    """Refuses what was sent to another name, and tells browsers to take answers as they are and not to keep them."""

    @app.before_request
    def only_by_its_own_name() -> None:
        """A page from elsewhere that has its name point here (DNS rebinding) still sends its own name."""
        name = flask.request.host.rsplit(":", 1)[0].strip("[]") if flask.request.host else ""
        if host in LOOPBACK and name not in LOOPBACK:
            flask.abort(403, f"This server answers at {host} only, and was asked as '{name[:100]}'.")

    @app.after_request
    def as_it_is(response: flask.Response) -> flask.Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response


def _answer(app: flask.Flask, answerer: _Answerer, host: str) -> None:
    """The page at /, the endpoint at /predict, and no icon."""
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
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
    """Answers what cannot be served with JSON that says why."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[flask.Response, int]:
        said = error.description or error.name
        if error.code == 413:
            said = f"The request is larger than {MAX_REQUEST_BYTES // 2**20} MiB or holds too many parts. Send smaller or fewer images."
        if error.code in (404, 405):
            said = "Expected GET / or POST /predict."
        return flask.jsonify(error=said), error.code or 500

    @app.errorhandler(TlkitError)
    def ours(error: TlkitError) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(error)), 400


class _Answerer:
    """A model with its names and, for a run, where its evidence lies; called with image files, one at a time."""

    def __init__(self, model: str | Path) -> None:
        self.title = Path(model).absolute().name
        self.names, self._ask = open_exported(model)
        self._lock = threading.Lock()
        self.explains = (Path(model) / "plan.json").is_file()
        if self.explains:
            run = open_run(model)
            self._model, self._size, self._fit = load_model(run), run.plan.image_size, run.plan.job.fit
            self._cam = self._grad_cam()

    def _grad_cam(self) -> Any:

        try:
            return GradCam(self._model, batch_size=1)
        except SpecError:  # no feature maps before the head
            return None

    def __call__(self, images: Sequence[bytes | str], evidence: bool) -> Answers:
        return [_unanswered(one) if isinstance(one, str) else self._one(one, evidence) for one in images]

    def _one(self, data: bytes, evidence: bool) -> dict[str, Any]:

        with self._lock:  # one at a time: memory is that of one picture
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
        """The picture with its evidence, as the model saw it, as a data URI."""
        from PIL import Image

        picture = decoded_pixels(data, self._size, self._fit)
        if self._cam is not None:
            heat = self._cam(picture[None], [chosen])[0][0]
        else:
            heat = occlusion_maps(self._model, picture[None], [chosen])[0]
        drawn = Image.fromarray(overlay(picture, heat))
        drawn = drawn.resize((EVIDENCE_PIXELS, EVIDENCE_PIXELS)) if self._size < EVIDENCE_PIXELS else drawn
        out = io.BytesIO()
        drawn.save(out, "PNG")
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _unanswered(problem: str) -> dict[str, Any]:
    return {"ok": False, "problem": problem, "class": "", "probability": 0.0, "sure": False, "probabilities": {}}
