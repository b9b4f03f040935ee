# TensorFlow Serving with a run's SavedModel inside. The folder of the run is what is built from:
#
#   docker build -f examples/docker/tf-serving.Dockerfile -t classifier-tf-serving runs/NAME
#   docker run -p 127.0.0.1:8501:8501 classifier-tf-serving
#
# Take a version that is no older than the TensorFlow that exported the model.
ARG TF_SERVING_VERSION=latest
FROM tensorflow/serving:${TF_SERVING_VERSION}

# 1 is the version under which the model is served
COPY saved_model /models/classifier/1
ENV MODEL_NAME=classifier

# not root; the ports are above 1024, and nothing is written
USER 65534:65534

# 8500: gRPC; 8501: REST
EXPOSE 8500 8501

# the image has no curl; bash opens the connection itself
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8501 && printf 'GET /v1/models/classifier HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && grep -q AVAILABLE <&3"]
