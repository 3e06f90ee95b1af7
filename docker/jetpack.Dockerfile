# The device half on a Jetson: builds engines and measures them; no torch. Build it on the board, from one of NVIDIA's
# containers for its JetPack, which brings TensorRT, its Python bindings and nvcc. docker/README.md has the commands.
ARG BASE
FROM ${BASE} AS dependencies
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        cmake g++ make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# The bindings of TensorRT are packages of the system's Python, and the devices of the GPU belong to the group video.
RUN useradd --create-home --groups video qvit && chmod 1777 /home/qvit \
    && python3 -m venv --system-site-packages /opt/qvit
ENV PATH=/opt/qvit/bin:$PATH HOME=/home/qvit USER=qvit PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Without them pip would fetch a TensorRT that is not this board's. Importing it takes the board's driver, which a build
# does not see.
RUN python -c "from importlib.metadata import version; print('TensorRT', version('tensorrt'))"
WORKDIR /source
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py tensorrt > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt


FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY kernels kernels
COPY qvit_deploy qvit_deploy
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


FROM dependencies AS run
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
# 87 is Orin, 110 Thor.
ARG SMS=87
# The command keeps libraries by the digest of the kernels: after a change of Python alone it finds this one compiled.
# ONNX Runtime leaves files in its user's home, and root's would be in the way of others in the image's.
RUN --mount=type=cache,target=/var/cache/plugins \
    HOME=/root XDG_CACHE_HOME=/var/cache/plugins qvit-deploy build-plugin $(printf -- '--sm %s ' ${SMS}) \
        --out /opt/qvit/lib/libqvit_plugins.so
COPY tools/jetson/session.py /opt/qvit/session.py
WORKDIR /work
USER qvit
ENTRYPOINT ["qvit-deploy"]
CMD ["--help"]
