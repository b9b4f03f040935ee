"""Serves a classifier: a local page, a simple endpoint, and TensorFlow Serving's REST interface.

Flask reads requests and Waitress serves them; both limit the size of a request. Images are processed one at a time, or
a few of one request, to bound memory. For many users, use TensorFlow Serving.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import secrets
import socket
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import flask
import numpy as np
from werkzeug.exceptions import HTTPException

from tlkit.data.headers import why_not
from tlkit.deployment import rest
from tlkit.deployment.exported import Reply, decoded_pixels
from tlkit.deployment.guard import LOOPBACK, Access, guard
from tlkit.deployment.metrics import CONTENT_TYPE, Metrics
from tlkit.deployment.requests import MAX_IMAGES, MAX_REQUEST_BYTES, _images
from tlkit.deployment.server import Server, stopped_by_signals
from tlkit.deployment.work import Allowance, Converter, Refused, Turns
from tlkit.errors import RunError, SpecError, TlkitError
from tlkit.evaluation.saliency import ClassActivationMaps, has_map, occlusion_maps, overlay
from tlkit.progress import log
from tlkit.runs.folder import open_run
from tlkit.runs.hub import local_folder
from tlkit.runs.reading import (
    is_target,
    load_model,
    load_signatures,
    open_exported,
    opened_default,
    served_folder,
    unsure_below,
)
from tlkit.words import counted

EVIDENCE_PIXELS = 384  # a saliency map is enlarged to this side if the model's images are smaller
STUCK_SECONDS = 120  # for one image or a few; beyond it, /health answers 503
USUAL_NAMES = ("model", "classifier")  # beside the folder's: what TensorFlow Serving's image and our examples use
Answers = list[dict[str, Any]]


class StillAnswering(RunError):
    """The server was ended while threads of the model still work, which Python cannot end."""


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    allow_origin: Sequence[str] = (),
    allow_host: Sequence[str] = (),
    token: str | None = None,
) -> None:
    """Serve a run, or an exported folder, until interrupted or terminated.

    Requests that have arrived by then are answered first.

    What the model itself does not decode, such as TIFF and HEIC, is converted first: see `tlkit.convert`.

    POST /predict takes one image file as the body, files of a form, or JSON, {"instances": [{"b64": ...}]}, also with
    data URLs; 32 MiB and 64 images at most. `?evidence=1` adds a saliency map as a PNG data URI, empty if no position
    of the image supports the answer. It answers {"predictions": [{"ok", "problem", "class", "probability", "sure",
    "probabilities": {class: number}}]}, with a row for each image. `sure` is null where the model has no threshold
    below which it is unsure. An image that cannot be read has `ok` false and its `problem`; the others are answered. If
    none can be read, the status is 422, and {"error": ...} is beside the rows.

    /v1/models/NAME:predict, /v1/models/NAME and /v1/models/NAME/metadata are TensorFlow Serving's REST interface
    (https://www.tensorflow.org/tfx/serving/api_rest): they take and answer what it does for the SavedModel, 32 MiB and
    1,024 rows at most. The one version is 1. There `probabilities` is a list in the order of `classes`, `sure` is true
    where there is no threshold, and images that cannot be read are rows with `ok` false, with status 200.

    GET /health answers 200, or 503 if an image has taken longer than two minutes; GET /metrics gives counts and times
    in Prometheus' format. Errors of a request give {"error": ...} with status 400, 401, 403, 404, 405, 408, 413, 415,
    431, or 503 with Retry-After.

    A request that takes longer than a minute to arrive gets 408; beyond 200 connections, the slowest get 503 for new
    ones, and so do requests beyond 150 that wait. SIGINT and SIGTERM end the server once what has arrived is answered,
    in 20 seconds at most; a second one ends it at once.

    Args:
        model: A run's folder, which also gives saliency maps, a folder that `tlkit export` wrote, or "hf://USER/NAME".
        host: The address to listen at. The default answers only this machine.
        port: 0 takes any free port.
        name: NAME above. The default takes the folder's name, "model" and "classifier".
        allow_origin: Origins of other sites whose pages may ask, such as "https://example.org"; "*" allows all.
        allow_host: Names of this server besides its address, as requests give them in Host: what a proxy passes on.
            "*" allows all. Beyond this machine they matter only without a token.
        token: What every request must send as `Authorization: Bearer TOKEN`, except for /health. The default is none
            for this machine only, and otherwise one that is made and shown. "" is none.

    Raises:
        SpecError: The port is outside 0 to 65535, or `name`, `allow_origin`, `allow_host` or `token` is none.
        RunError: The model cannot be loaded, or the address is taken.
        StillAnswering: The end came before an answer.
    """
    if not 0 <= port <= 65535:
        raise SpecError(f"`port` is {port}. Expected 0 to 65535.")
    origins, names = tuple(map(_checked_origin, allow_origin)), tuple(map(_checked_name, allow_host))
    made = token is None and host not in LOOPBACK
    access = Access(host, origins, secrets.token_urlsafe(16) if made else _checked_token(token or ""), names)
    metrics = Metrics()
    app = make_app(local_folder(model), access=access, name=name, metrics=metrics)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"Cannot listen at {host}, port {port}: {error}. "
            "Give another `port` (0 takes any free port), or another `host`."
        ) from error
    # Flask's limit is lower: it reads the rest before it refuses, so that clients that still send see the answer
    server = Server(app, listening, 2 * MAX_REQUEST_BYTES, dropped=metrics.drop, refused=metrics.refuse)
    with listening, stopped_by_signals(server):
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={access.token}" if made else "")
        log.info(f"serving  {model} at {address}  (Ctrl-C to stop)")
        if not access.local:
            _say_who_may_ask(access)
        left = server.run()
    if left:
        raise StillAnswering(
            f"Stopped before {counted(left, 'request')} had an answer. Expected them to take less time."
        )
    log.info("stopped")


def _say_who_may_ask(access: Access) -> None:
    if access.token:
        log.info("note     whoever has the token can use it; there is no encryption")
    else:
        log.info("note     anyone who can reach this machine can use it: there is no token and no encryption")


def _checked_origin(origin: str) -> str:
    if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.IGNORECASE):
        raise SpecError(f"`allow_origin` is '{origin}'. Expected an origin such as 'https://example.org', or '*'.")
    return origin


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[^/:\s]+", name):
        raise SpecError(f"`allow_host` is '{name}'. Expected a name without port, such as 'images.a.org', or '*'.")
    return name


def _checked_token(token: str) -> str:
    if not re.fullmatch(r"[!-~]*", token):
        raise SpecError("`token` has a space, or a character that is not ASCII. Expected one that a header can hold.")
    return token


def make_app(
    model: str | Path, *, access: Access | None = None, name: str | None = None, metrics: Metrics | None = None
) -> flask.Flask:
    """The page and the endpoints as a WSGI application.

    access: who may ask; by default this machine only. name, and what is answered: see `serve`.
    metrics: where requests are counted, if the caller counts too.
    """
    if name is not None and not re.fullmatch(r"[^/:\s]+", name):
        raise SpecError(f"`name` is '{name}'. Expected a name without spaces, '/' and ':', such as 'classifier'.")
    access, metrics = access or Access(), metrics or Metrics()
    app = flask.Flask("tlkit", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_IMAGES + 8
    app.url_map.merge_slashes = False
    _count(app, metrics)  # first, so that what the guard refuses is counted
    guard(app, access)
    served = _Served(model, metrics)
    names = (name,) if name else tuple(dict.fromkeys(one for one in (served.title, *USUAL_NAMES) if one))
    _add_page(app, served, access)
    _add_rest(app, served, names)
    _add_watching(app, served, metrics)
    _word_errors(app, names)
    return app


def _count(app: flask.Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        flask.g.begun = time.monotonic()

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        endpoint = flask.g.get("asked") or flask.request.endpoint or "other"
        metrics.request(endpoint, response.status_code, time.monotonic() - flask.g.begun)
        return response


def _add_page(app: flask.Flask, served: _Served, access: Access) -> None:
    """Add the page at /, the endpoint at /predict, and an empty answer for the icon."""
    page = resources.files("tlkit.deployment").joinpath("serve.html.jinja").read_text(encoding="utf-8")

    @app.get("/")
    def show() -> flask.Response:
        nonce = secrets.token_urlsafe(16)
        html = flask.render_template_string(
            page,
            nonce=nonce,
            title=served.title,
            classes=served.names,
            evidence=served.explains,
            local=access.local,
            token=bool(access.token),
            megabytes=MAX_REQUEST_BYTES // 2**20,
        )
        response = flask.Response(html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return response

    @app.post("/predict")
    def predict() -> tuple[flask.Response, int]:
        evidence = flask.request.args.get("evidence", "0") not in ("0", "", "false")
        rows = served.rows(_images(flask.request), evidence)
        if any(row["ok"] for row in rows):
            return flask.jsonify(predictions=rows), 200
        first = rows[0]["problem"]
        said = first if len(rows) == 1 else f"None of the {len(rows)} images can be read. The first: {first}"
        return flask.jsonify(error=said, predictions=rows), 422

    @app.get("/favicon.ico")
    def icon() -> flask.Response:
        return flask.Response(status=204)


def _add_rest(app: flask.Flask, served: _Served, names: tuple[str, ...]) -> None:
    """Add TensorFlow Serving's REST interface."""

    @app.route("/v1/<path:below>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], endpoint="rest")
    def ask(below: str) -> flask.Response:
        request = flask.request
        asked = rest.route("GET" if request.method == "HEAD" else request.method, request.path, names)
        flask.g.asked = f"rest_{asked.action}"
        if asked.action == "status":
            return _as_json(rest.status())
        if asked.action == "metadata":
            return _as_json(rest.metadata(asked.name, served.signatures))
        if asked.action != "predict":
            raise Refused(
                f"The model has no signature to {asked.action}: their method is tensorflow/serving/predict. "
                f"Expected POST /v1/models/{asked.name}:predict."
            )
        question = rest.read_question(request.get_data(parse_form_data=False), served.signatures)
        return _as_json(rest.answer(question, functools.partial(served.run, served.allowance())))


def _as_json(body: dict[str, Any]) -> flask.Response:
    """Keeps the order of keys; NaN and Infinity are written as TensorFlow Serving writes them."""
    return flask.Response(json.dumps(body, ensure_ascii=False), mimetype="application/json")


def _add_watching(app: flask.Flask, served: _Served, metrics: Metrics) -> None:
    """Add /health and /metrics."""

    @app.get("/health")
    def health() -> tuple[flask.Response, int]:
        seconds = served.seconds()
        if seconds > STUCK_SECONDS:
            return flask.jsonify(status="stuck", seconds=round(seconds, 1)), 503
        return flask.jsonify(status="ok", model=served.title, classes=len(served.names)), 200

    @app.get("/metrics")
    def show_metrics() -> flask.Response:
        return flask.Response(metrics.text(), content_type=CONTENT_TYPE)


def _word_errors(app: flask.Flask, names: tuple[str, ...]) -> None:
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
            message = (
                f"Nothing answers {flask.request.method} {flask.request.path[:200]}. Expected GET / or POST /predict, "
                f"POST /v1/models/{names[0]}:predict, GET /health or GET /metrics."
            )
        reply = flask.jsonify(error=message)
        if error.code == 401:
            reply.headers["WWW-Authenticate"] = "Bearer"
        return reply, error.code or 500

    @app.errorhandler(TlkitError)
    def ours(error: TlkitError) -> tuple[flask.Response, int]:
        reply = flask.jsonify(error=str(error))
        if not isinstance(error, Refused):
            return reply, 400
        if error.retry is not None:
            reply.headers["Retry-After"] = str(error.retry)
        return reply, error.status


class _Served:
    """Predicts image files, one at a time or a few; for a run, also with saliency maps."""

    def __init__(self, model: str | Path, metrics: Metrics) -> None:
        self.title = Path(model).absolute().name
        self._turns, self._converter, self._metrics = Turns(), Converter(), metrics
        if is_target(Path(model)):
            self.names, self._ask = open_exported(model)
            self.signatures = _signatures_of_target(self._outputs, len(self.names))
        else:
            functions = load_signatures(model)
            self.names, self._ask = opened_default(functions)
            self.signatures = rest.signatures_of(functions, served_folder(model))
        self._has_threshold = unsure_below(model) != 0
        self.explains = (Path(model) / "plan.json").is_file()
        if self.explains:
            run = open_run(model)
            self._model, self._square = load_model(run), (run.plan.image_size, run.plan.job.fit, run.plan.depth)
            self._cam = self._activation_maps()

    def _activation_maps(self) -> ClassActivationMaps | None:
        try:
            return ClassActivationMaps(self._model, batch_size=1)
        except SpecError:  # no feature maps before the head
            return None

    def allowance(self) -> Allowance:
        """What a request may cost."""
        return Allowance(self._converter)

    def seconds(self) -> float:
        """How long the present piece of work has lasted; 0 if there is none."""
        return max(self._turns.seconds(), self._converter.turns.seconds())

    def run(self, allowance: Allowance, signature: rest.Signature, tensors: rest.Tensors) -> rest.Tensors:
        """Run a signature on some rows. What the model does not decode is converted first."""
        files = tensors.get("image_bytes", ())
        if len(files) and signature.inputs == {"image_bytes": ("object", (None,))}:
            parts = []
            for piece in allowance.pieces(files):
                with self._turns.turn():
                    parts.append(signature.call({"image_bytes": _objects([one.data for one in piece])}))
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        else:
            with self._turns.turn():
                outputs = signature.call(tensors)
        self._count(outputs)
        return outputs

    def _count(self, outputs: rest.Tensors) -> None:
        if (ok := outputs.get("ok", outputs.get("sure"))) is not None:
            sure = outputs.get("sure", ok)
            read = np.ones(len(ok), bool) if "ok" not in outputs else ok
            self._metrics.image("answered", int((read & sure).sum()))
            self._metrics.image("unsure", int((read & ~sure).sum()))
            self._metrics.image("unreadable", int((~read).sum()))

    def _outputs(self, tensors: rest.Tensors) -> rest.Tensors:
        """What a SavedModel's `serving_default` would give, of a format that takes pixels."""
        data = list(tensors["image_bytes"])
        reply = self._ask(data) if data else Reply((np.zeros(0, bool),) * 2 + (np.zeros((0, len(self.names))),))
        oks, sures, values = reply
        named = [reply.class_of(index, self.names) if ok else "" for index, ok in enumerate(oks)]
        return {
            "class": _strings(named),
            "sure": np.asarray(sures, bool),
            "probability": values.max(1).astype("float32") if data else np.zeros(0, "float32"),
            "probabilities": values.astype("float32"),
            "classes": np.array([_strings(self.names)] * len(data), dtype=object).reshape(len(data), len(self.names)),
            "ok": np.asarray(oks, bool),
            "problem": _strings(["" if ok else ": ".join(why_not(one)) for one, ok in zip(data, oks, strict=True)]),
        }

    def rows(self, images: Sequence[bytes | str], evidence: bool) -> Answers:
        """The answers of /predict, one for each image."""
        found = [_unanswered(one if isinstance(one, str) else "") for one in images]
        places = [index for index, one in enumerate(images) if not isinstance(one, str)]
        for piece in self.allowance().pieces([one for one in images if not isinstance(one, str)]):
            for one in piece:
                found[places[one.index]]["problem"] = one.problem
            sound = [one for one in piece if not one.problem]
            if not sound:
                continue
            with self._turns.turn():
                answers = self._answered([one.data for one in sound])
            for one, answer in zip(sound, answers, strict=True):
                found[places[one.index]] = answer
                if evidence and self.explains and answer["ok"]:
                    with self._turns.turn():
                        answer["evidence"] = self._drawn(one.data, int(answer.pop("best")))
        for row in found:
            row.pop("best", None)
            self._metrics.image("unreadable" if not row["ok"] else "unsure" if row["sure"] is False else "answered")
        return found

    def _answered(self, data: list[bytes]) -> Answers:
        """The answers for files that the model decodes. "best" in them is the index of the class."""
        found = []
        reply = self._ask(data)
        for index, (one, ok, sure, values) in enumerate(zip(data, *reply, strict=True)):
            if not ok:
                found.append(_unanswered(": ".join(why_not(one))))
                continue
            best = int(values.argmax())
            answer = {
                "ok": True,
                "problem": "",
                "class": reply.class_of(index, self.names),
                "probability": float(values[best]),
                "sure": bool(sure) if self._has_threshold else None,
                "probabilities": {name: float(value) for name, value in zip(self.names, values, strict=True)},
                "best": best,
                **reply.of_image(index, self.names),
            }
            found.append(answer)
        return found

    def _drawn(self, data: bytes, chosen: int) -> str:
        """The image, as the model sees it, with its saliency map drawn over it: a PNG as a data URI.

        An empty text if the map is empty.
        """
        from PIL import Image

        image = decoded_pixels(data, *self._square)
        if self._cam is not None:
            maps = self._cam(image[None], [chosen])[0]
        else:
            maps = occlusion_maps(self._model, image[None], [chosen])
        if not has_map(maps)[0]:
            return ""
        drawn = Image.fromarray(overlay(image, maps[0]))
        drawn = drawn.resize((EVIDENCE_PIXELS, EVIDENCE_PIXELS)) if self._square[0] < EVIDENCE_PIXELS else drawn
        out = io.BytesIO()
        drawn.save(out, "PNG")
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _objects(values: Sequence[bytes]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _strings(texts: Sequence[str]) -> np.ndarray:
    return _objects([text.encode("utf-8") for text in texts])


def _signatures_of_target(call: Any, classes: int) -> dict[str, rest.Signature]:
    """The signatures of a SavedModel that take files, for a format that takes pixels."""

    def tensor(kind: str, *shape: int) -> dict[str, Any]:
        dim = [{"size": str(one), "name": ""} for one in (-1, *shape)]
        return {"dtype": kind, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": ""}

    outputs = {name: tensor("DT_STRING") for name in ("class", "problem")}
    outputs |= {name: tensor("DT_BOOL") for name in ("ok", "sure")}
    outputs |= {"probability": tensor("DT_FLOAT"), "probabilities": tensor("DT_FLOAT", classes)}
    outputs["classes"] = tensor("DT_STRING", classes)
    definition = {
        "inputs": {"image_bytes": tensor("DT_STRING")},
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
    }
    one = rest.Signature({"image_bytes": ("object", (None,))}, call, definition)
    return {rest.DEFAULT: one, "serve_bytes": one}


def _unanswered(problem: str) -> dict[str, Any]:
    return {"ok": False, "problem": problem, "class": "", "probability": 0.0, "sure": False, "probabilities": {}}
