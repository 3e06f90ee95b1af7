# Compiles, evaluates and measures on a CPU; the target `ci` runs .ci/run. docker/README.md has the commands.

# The Python that constraints.txt is tested with.
FROM python:3.11-slim-bookworm AS dependencies
# Bundles belong to whoever runs the container with --user, who may have no name here and needs a home to write to.
RUN useradd --create-home qvit && chmod 1777 /home/qvit && python -m venv /opt/qvit
ENV PATH=/opt/qvit/bin:$PATH HOME=/home/qvit USER=qvit PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml constraints.txt docker/requirements.py ./
# pip reads this by itself: an index whose torch has no CUDA libraries, which PyPI's brings along.
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS="compile openvino"
RUN python requirements.py ${EXTRAS} > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt


FROM dependencies AS ci
RUN apt-get update && apt-get install --yes --no-install-recommends cmake g++ make && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL
RUN python requirements.py compile dev > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
WORKDIR /qvit-deploy
RUN chown qvit .
COPY --chown=qvit . .
# What `make` would do first; it finds this done.
RUN ln -s /opt/qvit .venv && pip install --no-deps --no-build-isolation --editable . && touch .venv/.installed
USER qvit
CMD [".ci/run"]


FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY kernels kernels
COPY qvit_deploy qvit_deploy
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


FROM dependencies AS run
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
WORKDIR /work
USER qvit
ENTRYPOINT ["qvit-deploy"]
CMD ["--help"]
