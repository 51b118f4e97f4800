# tq in a container: `docker build -t tq .`, then as docs/deploying.md says.
# It listens on all addresses of the container, so it starts only with tokens or when told that it need not ask for any.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY tq ./tq
# No pip in what is run: that of the build installs into it.
RUN python -m venv --without-pip /opt/tq \
    && python -m pip --python /opt/tq/bin/python install --no-cache-dir '.[client]'

FROM ${BASE}
COPY --from=build /opt/tq /opt/tq
# A number, so that Kubernetes can see that it is not root's (runAsNonRoot). A new volume takes owner and mode from here.
RUN install -d -o 10001 -g 10001 -m 0700 /data
ENV PATH=/opt/tq/bin:$PATH \
    TQ_HOST=0.0.0.0 \
    TQ_DATA_DIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 8000
# It is asked for what needs the disk too. There is no curl in the image, and Python is.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# Python is process 1 and stops in order on SIGTERM.
ENTRYPOINT ["tq"]
CMD ["serve"]
