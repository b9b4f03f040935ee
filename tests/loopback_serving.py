"""A small server with TensorFlow Serving's interfaces, REST and gRPC, that loads a SavedModel with only TensorFlow.

Run as a program: python loopback_serving.py FOLDER. Prints the two ports. It follows Serving's documented bodies
(https://www.tensorflow.org/tfx/serving/api_rest), and refuses what Serving refuses: outputs without a row for each
instance.
"""

import base64
import json
import os
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for absent in ("keras", "tf_keras", "tlkit"):
    sys.modules[absent] = None  # type: ignore[assignment]  # importing one of them now fails

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    predict_pb2,
    prediction_service_pb2_grpc,
)

SIGNATURES = tf.saved_model.load(sys.argv[1]).signatures


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def Predict(self, request, context):  # type: ignore[no-untyped-def]
        name = request.model_spec.signature_name or "serving_default"
        if name not in SIGNATURES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no signature {name}")
        try:
            inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            outputs = SIGNATURES[name](**inputs)
        except (TypeError, ValueError, tf.errors.OpError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:500])
        reply = predict_pb2.PredictResponse()
        for key, value in outputs.items():
            reply.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return reply


def decoded(value):  # type: ignore[no-untyped-def]
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"])
    return [decoded(one) for one in value] if isinstance(value, list) else value


def plain(value):  # type: ignore[no-untyped-def]
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value


def answered(body):  # type: ignore[no-untyped-def]
    asked = json.loads(body)
    serve = SIGNATURES[asked.get("signature_name", "serving_default")]
    names = list(serve.structured_input_signature[1])
    rows = asked.get("instances")
    if rows is not None:  # the row format: with one input its name may be left out
        named = all(isinstance(row, dict) and set(row) == set(names) for row in rows)
        inputs = {name: [decoded(row[name] if named else row) for row in rows] for name in names}
    else:
        columns = asked["inputs"]
        inputs = (
            {name: decoded(columns[name]) for name in names}
            if isinstance(columns, dict)
            else {names[0]: decoded(columns)}
        )
    kinds = {name: spec.dtype for name, spec in serve.structured_input_signature[1].items()}
    outputs = {k: v.numpy() for k, v in serve(**{n: tf.constant(v, kinds[n]) for n, v in inputs.items()}).items()}
    if rows is None:
        return {"outputs": {name: plain(value.tolist()) for name, value in outputs.items()}}
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != len(rows):
            raise ValueError(f"Tensor name: {name} has inconsistent batch size: {value.shape}, expecting: {len(rows)}")
    lists = {name: plain(value.tolist()) for name, value in outputs.items()}
    return {"predictions": [{name: lists[name][i] for name in lists} for i in range(len(rows))]}


class Rest(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            if self.path != "/v1/models/classifier:predict":
                raise ValueError(f"no such path: {self.path}")
            status, reply = 200, answered(self.rfile.read(int(self.headers["Content-Length"])))
        except (AttributeError, KeyError, TypeError, ValueError, tf.errors.OpError) as error:
            status, reply = 400, {"error": str(error)[:500]}
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    limit = [("grpc.max_receive_message_length", 256 * 2**20)]
    server = grpc.server(futures.ThreadPoolExecutor(2), options=limit)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": port, "rest": rest.server_address[1]}), flush=True)
    server.wait_for_termination()


main()
