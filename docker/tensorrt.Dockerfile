# A workstation with an NVIDIA GPU: compiles, builds TensorRT engines, packed weights included, and measures them.
# docker/README.md has the commands.

# Has nvcc, which compiles pycuda and the plugins, and NVIDIA's apt repository.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS dependencies
# Of the Python wheels and of the headers that the plugins are compiled against, which must be one.
ARG TENSORRT=11.4.0.106
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        cmake g++ make python3-dev python3-venv "libnvinfer-headers-dev=${TENSORRT}-*" \
    && rm -rf /var/lib/apt/lists/*
# Bundles belong to whoever runs the container with --user, who may have no name here and needs a home to write to.
RUN useradd --create-home qvit && chmod 1777 /home/qvit && python3 -m venv /opt/qvit
ENV PATH=/opt/qvit/bin:$PATH HOME=/home/qvit USER=qvit PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml constraints.txt docker/requirements.py ./
# pip reads this by itself: an index whose torch has no CUDA libraries. Engines run without torch's.
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS="compile tensorrt"
RUN python requirements.py ${EXTRAS} > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt "tensorrt==${TENSORRT}"


FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY kernels kernels
COPY qvit_deploy qvit_deploy
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


FROM dependencies AS run
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
ARG SMS="80 86 89 90 120"
# The command keeps libraries by the digest of the kernels: after a change of Python alone it finds this one compiled.
# ONNX Runtime leaves files in its user's home, and root's would be in the way of others in the image's.
RUN --mount=type=cache,target=/var/cache/plugins \
    HOME=/root XDG_CACHE_HOME=/var/cache/plugins qvit-deploy build-plugin $(printf -- '--sm %s ' ${SMS}) \
        --out /opt/qvit/lib/libqvit_plugins.so
WORKDIR /work
USER qvit
ENTRYPOINT ["qvit-deploy"]
CMD ["--help"]
