# `tlkit serve` in a container. Build it in the root of the repository:
#
#   docker build -f examples/docker/serve.Dockerfile -t tlkit-serve .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/runs/NAME:/model:ro" -e TLKIT_TOKEN=SECRET tlkit-serve
FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE /src/
COPY tlkit /src/tlkit
COPY recipes /src/recipes
RUN pip install --no-cache-dir "/src[heic]" && rm -r /src

RUN useradd --system --uid 10001 --create-home tlkit
USER tlkit
WORKDIR /home/tlkit

# 0.0.0.0 is the container's own address: what reaches it is decided where its port is published
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["tlkit", "serve", "/model", "--host", "0.0.0.0", "--port", "8000", "--name", "classifier"]
