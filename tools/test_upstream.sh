#!/usr/bin/env bash
# Runs the fast tests on upstream OpenMMLab, in an environment of its own.
#
#   tools/test_upstream.sh [FOLDER]    default: .venv-upstream
#
#   PYTHON   the interpreter, 3.10 or 3.11 (default python3)
#
# Versions: requirements/upstream.txt. Compiling mmcv's ops takes about 14 minutes on two
# cores; the wheel is kept in the user's cache, so that it is done once.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-$root/.venv-upstream}"
pins="$root/requirements/upstream.txt"
python="$folder/bin/python"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/saim_mm/wheels"

if ! [[ -x $python ]]; then
    "${PYTHON:-python3}" -m venv "$folder"
fi
if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))'
then
    echo "error: upstream's torch 2.1 has no wheels for $("$python" --version);" \
        "set PYTHON to a Python 3.10 or 3.11 and remove $folder" >&2
    exit 1
fi
pip() { "$python" -m pip "$@"; }

pip install --quiet -c "$pins" setuptools wheel ninja packaging
pip install --quiet -c "$pins" torch torchvision numpy opencv-python-headless
# What mmengine and mmcv ask for, but for the OpenCV that needs libGL.
pip install --quiet -c "$pins" addict matplotlib pyyaml rich termcolor yapf pillow
pip install --quiet --no-deps -c "$pins" mmengine

tag="$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
wheels="$cache/mmcv-2.1.0_torch-2.1.2_${tag}_ops_cpu"
if ! ls "$wheels"/mmcv-*.whl >/dev/null 2>&1; then
    echo "compiling mmcv's ops"
    mkdir -p "$wheels"
    MMCV_WITH_OPS=1 pip wheel --quiet --no-deps --no-build-isolation \
        -c "$pins" --wheel-dir "$wheels" mmcv
fi
pip install --quiet --no-deps "$wheels"/mmcv-*.whl
# mmdet and mmseg import ftfy, regex and the rest without declaring all of it.
pip install --quiet --no-deps -c "$pins" mmpretrain mmdet mmsegmentation
pip install --quiet -c "$pins" einops importlib-metadata mat4py modelindex prettytable \
    pycocotools shapely six terminaltables tqdm scipy ftfy regex transformers \
    safetensors scikit-image scikit-learn pytest pytest-xdist
pip install --quiet --no-deps --no-build-isolation --editable "$root"

cd "$root"
"$python" tools/doctor.py
exec "$python" -m pytest -n 2 --dist worksteal -m "not slow" -q
