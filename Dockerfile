# The web chat, the chat in the terminal and all other programs, on a CPU or on NVIDIA's GPUs. README.md says how to run them.
#
#   docker build -t glm .
#   docker build -t glm:cuda --build-arg BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime \
#       --build-arg REQUIREMENTS=requirements-cuda.txt .
#
# BASE: Debian or Ubuntu with Python 3.11 or newer and pip. A torch in it is kept if it is the pinned version.
# TORCH_INDEX: where a base without torch gets it, by default PyTorch's index of the builds for CPUs. PyPI's build for Linux
#     is the one for CUDA, several GB more; an empty value takes that.
# REQUIREMENTS: the file that pip installs.
ARG BASE=python:3.12-slim
FROM ${BASE}

LABEL org.opencontainers.image.title="glm" \
      org.opencontainers.image.description="GLM-130B and ChatGLM-6B in a browser and a terminal" \
      org.opencontainers.image.licenses="Apache-2.0"

# g++ for the kernel for INT4 and INT8 on CPUs, which is compiled at its first use; gcc and Python.h, which Triton compiles
# its launcher with. Python.h is there where Python does not come from the distribution.
RUN apt-get update \
    && header="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')" \
    && export DEBIAN_FRONTEND=noninteractive \
    && apt-get install --yes --no-install-recommends g++ locales $([ -e "$header" ] || echo python3-dev) \
    && localedef -i zh_CN -f UTF-8 zh_CN.UTF-8 \
    && { command -v python || ln -s "$(command -v python3)" /usr/local/bin/python; } \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt requirements-cuda.txt constraints.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG REQUIREMENTS=requirements.txt
# The distribution's Python of today's CUDA images is marked as managed by apt (PEP 668); here nothing else uses it.
# A torchvision or torchaudio that was made for another torch than the one that is there now would break transformers.
RUN if grep -q '^setuptools==' "$REQUIREMENTS"; then sed -i '/^setuptools==/d' constraints.txt; fi \
    && export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    && if python3 -m pip show --quiet torch 2>/dev/null; then TORCH_INDEX=; fi \
    && python3 -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r "$REQUIREMENTS" \
    && for package in torchvision torchaudio; do \
           python3 -c "import $package" 2>/dev/null || python3 -m pip uninstall --yes --quiet "$package"; \
       done

COPY . .
RUN python3 -m compileall -q app glm_model \
    # Any user may write here; what a volume holds instead is its owner's business.
    && install -d -m 1777 /cache /cache/triton /cache/torchinductor && install -d /model

# Every user's home, also of one that has no name here (--user).
ENV HOME=/cache \
    XDG_CACHE_HOME=/cache \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    LANG=C.UTF-8 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
VOLUME ["/cache", "/model"]
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s CMD ["python3", "/app/container/health.py"]
ENTRYPOINT ["/app/container/start.sh"]
