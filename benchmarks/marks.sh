#!/usr/bin/env bash
# Measures the marks of benchmarks/README.md on one GPU and keeps a record of each:
#
#   benchmarks/marks.sh OUT [DATA]
#
# OUT is the folder of the records; DATA, with images in it, is what the loader's mark
# needs. A mark that fails does not keep the others from being measured. It is run in the
# root of the repository: records keep their commands, and so no path of the machine.
set -uo pipefail

if (($# < 1 || $# > 2)); then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
if [[ ! -d benchmarks || ! -d configs/saim ]]; then
    echo "error: $PWD is not the root of the repository; go there first" >&2
    exit 2
fi
out=$1 data=${2:-} failed=()
mkdir -p "$out"

mark() { # NAME BENCHMARK ARGUMENTS...
    local name=$1 benchmark=$2
    shift 2
    echo "== $name"
    "${PYTHON:-python}" -m benchmarks "$benchmark" "$@" --out "$out/$name.json" ||
        failed+=("$name")
}
pretrain() { # NAME ARGUMENTS...
    mark "$1" pretrain configs/saim/saim_vit-b_800e_in1k.py \
        --dtype bfloat16 --compile --steps 30 --warm-up 10 --data none "${@:2}"
}

pretrain full --batch 256
pretrain query-share-2 --batch 256 --set model.query_share=0.5
pretrain query-share-4 --batch 256 --set model.query_share=0.25
pretrain reference-224 --batch 64 --against reference
pretrain reference-448 --batch 16 --against reference --set model.backbone.img_size=448
pretrain reference-896 --batch 1 --against reference --set model.backbone.img_size=896
pretrain compile --batch 64 --against eager
if [[ -n $data ]]; then
    pretrain loader --batch 256 --data config --set train_dataloader.num_workers=16 \
        train_dataloader.dataset.data_root="$data" train_dataloader.dataset.data_prefix=''
fi
mark fine-tune classifier \
    configs/saim/benchmarks/vit-b_finetune_100e_in1k.py --batch-size 128
mark detector detector \
    configs/coco/mask-rcnn_saim-vit-b_100e_coco.py --batch-size 2

if ((${#failed[@]})); then
    echo "not measured: ${failed[*]}" >&2
    exit 1
fi
