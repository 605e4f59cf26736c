# saim_mm on one machine with NVIDIA GPUs: torch 2.11 and CUDA 13.0, as tested.
#
#   docker build -t saim_mm .
#   docker run --rm --gpus all --ipc=host -v "$PWD/data:/data" -v "$PWD/runs:/runs" \
#       saim_mm saim-mm doctor
#
# torch comes with the image and has the version of requirements/tested.txt, so that it is
# not installed again; all else is installed by the project's own files.
FROM pytorch/pytorch:2.11.0-cuda13.0-cudnn9-devel

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Newer images have the system's Python, which pip and uv would not touch.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    UV_BREAK_SYSTEM_PACKAGES=1 \
    PIP_NO_CACHE_DIR=1 \
    UV_NO_CACHE=1 \
    PYTHONUNBUFFERED=1

# A compiler and Python's headers, for mmcv's ops. No versions: an image of Debian's or
# Ubuntu's family keeps only the newest of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make python3-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/saim_mm

# What changes seldom comes first, so that a change of the code reuses these layers.
COPY pyproject.toml ./
COPY requirements/ requirements/
COPY tools/run_uv.py tools/build_mmcv.py tools/
RUN python tools/run_uv.py pip install --python "$(command -v python)" \
    -c requirements/tested.txt -b requirements/tested.txt -r requirements/opencv.txt \
    -r pyproject.toml --extra onedl --extra speed --extra demo --extra downstream \
    --extra convert --extra export --extra build

# Compiled for the CPU, as a build sees no GPU; pretraining needs none of the ops. For
# detectors on the GPU run this once more in a container that has one, as root.
RUN SAIM_MM_CACHE=/tmp/saim_mm python tools/build_mmcv.py && rm -rf /tmp/saim_mm

COPY . .
RUN python -m pip install --no-deps --no-build-isolation -e .

RUN useradd --create-home --uid 10001 saim && mkdir -p /data /runs && chown saim:saim /data /runs
USER 10001
WORKDIR /runs

CMD ["saim-mm", "--help"]
