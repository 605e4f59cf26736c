"""Times how images are loaded and cropped: ours against mmpretrain's and torchvision's.

All pipelines run in one process and one thread, as in a data worker, and take turns,
so that a busy machine hits them alike. Figures are images per second of CPU time. With
no --data it uses sample photographs, enlarged to the size of ImageNet's.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import default_collate
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import io as torchvision_io
from torchvision import transforms as torchvision_transforms

from saim_mm.datasets import PackedImages, UnlabeledImages, load_random_crop
from saim_mm.datasets.packing import PackOptions, pack_images, psnr
from saim_mm.datasets.sample_photos import sample_photos
from saim_mm.utils.environment import environment

from .clock import shown_steps

SIDE = 224
CROP = dict(scale=SIDE, crop_ratio_range=(0.67, 1.0))
PACK = dict(type="PackInputs")
OURS = [dict(type="LoadRandomResizedCrop", **CROP, flip_prob=0.5), PACK]
#: Of ImageNet's mean and deviation, in RGB.
NORMALISE = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
#: Kinds of packs, and the options that make them.
PACKS: dict[str, dict[str, Any]] = {
    "packed": {},
    "packed, short side 320": dict(short_side=320),
    "packed, uncompressed": dict(uncompressed=True),
    "packed, uncompressed, short side 320": dict(uncompressed=True, short_side=320),
}
#: What the sample photographs are enlarged to: height, and JPEG quality.
SAMPLE_HEIGHT, SAMPLE_QUALITY = 375, 95
#: Images of a short and of a long run of the DataLoader.
LOADER_IMAGES = (200, 2000)
PACKAGES = (
    "torch", "torchvision", "mmengine", "mmcv", "mmpretrain", "cv2", "PIL", "simplejpeg"
)  # fmt: skip

#: Loads the i-th image, by whatever means.
Load = Callable[[int], Any]


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser("benchmarks loader", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, metavar="FOLDER", help="images, nested or flat")
    add("--images", type=int, default=100, help="images of the folder that are used")
    add("--rounds", type=int, default=9, help="how often each pipeline loads them")
    add("--workers", type=int, default=2, help="data workers; 0 leaves that part out")
    add("--out", type=Path, metavar="JSON", help="write the figures to this file")
    args = parser.parse_args(arguments)
    if min(args.images, args.rounds) < 1 or args.workers < 0:
        parser.error("--images and --rounds must be positive, --workers not negative")
    return args


def sample_folder(folder: Path) -> Path:
    """Writes the sample photographs as JPEGs of the size of ImageNet's."""
    for source in sample_photos():
        with Image.open(source) as image:
            size = round(image.width * SAMPLE_HEIGHT / image.height), SAMPLE_HEIGHT
            larger = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        larger.save(folder / f"{source.stem}.jpg", quality=SAMPLE_QUALITY)
    return folder


def chosen(dataset: UnlabeledImages, count: int) -> list[str]:
    """Paths of ``count`` images of a dataset, spread evenly."""
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    return [dataset.get_data_info(i)["img_path"] for i in indices.tolist()]


def make_pack(
    folder: Path, names: Path, pack: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Packs the listed images of a folder; what its pack.json says, and its size."""
    manifest = pack_images(folder, pack, PackOptions(**options), str(names)).manifest
    size = sum(path.stat().st_size for path in pack.glob("*.tar"))
    return dict(kilobytes=round(size / manifest.images / 1e3, 1), psnr=manifest.psnr)


def mm_pipeline(paths: list[str], *transforms: dict[str, Any]) -> Load:
    """Loads by OpenMMLab's transforms."""
    pipeline = Compose([TRANSFORMS.build(transform) for transform in transforms])
    return lambda i: pipeline(dict(img_path=paths[i], sample_idx=i))


def mmpretrain_pipeline(paths: list[str], decode: str, resize: str) -> Load:
    """Loads as mmpretrain's recipes of self-supervised training do."""
    return mm_pipeline(
        paths,
        dict(type="LoadImageFromFile", imdecode_backend=decode),
        dict(type="RandomResizedCrop", **CROP, backend=resize, interpolation="bicubic"),
        dict(type="RandomFlip", prob=0.5),
        PACK,
    )


def torchvision_pipeline(paths: list[str], floats: bool) -> Load:
    """Loads as the scripts of MAE and DeiT do, or ends in bytes as ours does."""
    tv = torchvision_transforms
    bicubic = tv.InterpolationMode.BICUBIC
    crop = tv.RandomResizedCrop(SIDE, CROP["crop_ratio_range"], interpolation=bicubic)
    last = [tv.ToTensor(), tv.Normalize(**NORMALISE)] if floats else [tv.PILToTensor()]
    transform = tv.Compose([crop, tv.RandomHorizontalFlip(), *last])

    def load(i: int) -> torch.Tensor:
        with Image.open(paths[i]) as image:
            return transform(image.convert("RGB"))

    return load


def pipelines(paths: list[str], packs: dict[str, list[str]]) -> dict[str, Load]:
    """Everything that is compared; ours is measured against each."""
    without_simplejpeg = mock.patch.object(load_random_crop, "simplejpeg", None)
    return {
        "ours": mm_pipeline(paths, *OURS),
        "ours, decoded by OpenCV": without_simplejpeg(mm_pipeline(paths, *OURS)),
        **{f"ours, {kind}": mm_pipeline(packs[kind], *OURS) for kind in packs},
        "mmpretrain, Pillow": mmpretrain_pipeline(paths, "pillow", "pillow"),
        "mmpretrain, OpenCV decodes, Pillow resizes": mmpretrain_pipeline(
            paths, "cv2", "pillow"
        ),
        "mmpretrain, OpenCV": mmpretrain_pipeline(paths, "cv2", "cv2"),
        "torchvision on Pillow, normalised floats": torchvision_pipeline(paths, True),
        "torchvision on Pillow, bytes": torchvision_pipeline(paths, False),
    }


def decoders(paths: list[str]) -> dict[str, Load]:
    """Decoders of JPEG that come as wheels, from memory to full size."""
    contents = [Path(path).read_bytes() for path in paths]
    arrays = [np.frombuffer(content, np.uint8) for content in contents]
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    rgb = torchvision_io.ImageReadMode.RGB
    found: dict[str, Load] = {
        "OpenCV": lambda i: cv2.imdecode(arrays[i], cv2.IMREAD_COLOR),
        "Pillow": lambda i: np.array(
            Image.open(io.BytesIO(contents[i])).convert("RGB")
        ),
        "torchvision": lambda i: torchvision_io.decode_jpeg(tensors[i], rgb),
    }
    if (library := load_random_crop.simplejpeg) is not None:
        decode = library.decode_jpeg
        found["simplejpeg"] = lambda i: decode(contents[i], "BGR")
        found["simplejpeg, half size"] = lambda i: decode(
            contents[i], "BGR", min_height=1, min_width=1, min_factor=2
        )
    return found


def cpu_milliseconds(load: Load, count: int) -> float:
    """CPU time of this process per image."""
    start = time.process_time()
    for i in range(count):
        load(i)
    return 1e3 * (time.process_time() - start) / count


def take_turns(loads: dict[str, Load], count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per image in each round, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in loads}
    names = list(loads)
    for turn in (number - 1 for number in shown_steps(rounds + 1, "round")):
        # Each begins in turn, as what ran before leaves the caches to the next.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            milliseconds = cpu_milliseconds(loads[name], count)
            if turn >= 0:
                found[name].append(milliseconds)
    return found


def summary(
    found: dict[str, list[float]], against: str | None = None
) -> dict[str, dict[str, float]]:
    """Medians; and how many times the time of ``against`` each takes, by rounds."""
    rows = {}
    for name, times in found.items():
        median = statistics.median(times)
        row = dict(
            images_per_cpu_second=round(1e3 / median, 1),
            milliseconds=round(median, 3),
            fastest_milliseconds=round(min(times), 3),
        )
        if against is not None:
            ratios = [a / b for a, b in zip(times, found[against], strict=True)]
            row["times_ours"] = round(statistics.median(ratios), 2)
            row["times_ours_by_fastest"] = round(min(times) / min(found[against]), 2)
        rows[name] = row
    return rows


def psnr_against_slow(paths: list[str]) -> dict[str, float]:
    """PSNR of our crops against mmpretrain's with Pillow's filter, in dB."""
    ours = mm_pipeline(paths, *OURS)
    slow = mmpretrain_pipeline(paths, "cv2", "pillow")
    found, largest = [], 0
    for i in range(len(paths)):
        images = []
        for load in (ours, slow):
            np.random.seed(i)
            images.append(load(i)["inputs"].numpy().astype(int))
        found.append(psnr(*images))
        largest = max(largest, int(np.abs(images[0] - images[1]).max()))
    mean, least = round(statistics.mean(found), 2), round(min(found), 2)
    return dict(mean=mean, least=least, largest_difference=largest)


def loader_figures(
    dataset: UnlabeledImages, workers: int, in_process: Load, rounds: int
) -> dict[str, float]:
    """What the DataLoader keeps of the speed in one process, in the same rounds."""
    size = len(dataset)
    few, many = (-(-images // size) for images in LOADER_IMAGES)
    images = (many - few) * size
    found = []
    for _ in range(max(1, rounds // 3)):
        before = cpu_milliseconds(in_process, size)
        # The difference leaves out how workers start and end, once in a run of days.
        start = run_loader(dataset, workers, few)
        whole = run_loader(dataset, workers, many)
        after = cpu_milliseconds(in_process, size)
        wall, cpu = (b - a for a, b in zip(start, whole, strict=True))
        share = (before + after) / 2 / (1e3 * cpu / images)
        found.append((images / wall, images / cpu, share))
    medians = [statistics.median(figure) for figure in zip(*found, strict=True)]
    return dict(
        workers=workers,
        images_per_second=round(medians[0], 1),
        images_per_cpu_second=round(medians[1], 1),
        share_of_in_process=round(medians[2], 3),
    )


def run_loader(
    dataset: UnlabeledImages, workers: int, times: int
) -> tuple[float, float]:
    """Seconds, and CPU seconds of all processes, to go through a dataset."""
    wall, cpu = time.perf_counter(), _cpu_with_children()
    loader = DataLoader(
        dataset,
        batch_size=64,
        sampler=list(range(len(dataset))) * times,
        num_workers=workers,
        collate_fn=default_collate,
        worker_init_fn=_one_thread,
    )
    for _ in loader:
        pass
    del loader  # ends the workers, whose time counts only then
    return time.perf_counter() - wall, _cpu_with_children() - cpu


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _cpu_with_children() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def figures(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that the record holds beside the environment."""
    folder = args.data or sample_folder(scratch)
    paths = chosen(UnlabeledImages(str(folder)), args.images)
    names = scratch / "names.txt"
    names.write_text("".join(f"{Path(p).relative_to(folder)}\n" for p in paths))
    made, packed = {}, {}
    for number, (kind, options) in enumerate(PACKS.items()):
        pack = scratch / f"pack{number}"
        made[kind] = make_pack(folder, names, pack, options)
        packed[kind] = chosen(PackedImages(str(pack)), len(paths))
    loads = pipelines(paths, packed)
    sizes = [Image.open(path).size for path in paths]
    record = dict(
        data=dict(
            images=len(paths),
            kilobytes=round(np.mean([Path(p).stat().st_size for p in paths]) / 1e3, 1),
            megapixels=round(sum(w * h for w, h in sizes) / len(paths) / 1e6, 3),
        ),
        rounds=args.rounds,
        pipelines=summary(take_turns(loads, len(paths), args.rounds), "ours"),
        decoders=summary(take_turns(decoders(paths), len(paths), args.rounds)),
        psnr_against_pillow=psnr_against_slow(paths),
        packs=made,
    )
    if args.workers:
        dataset = UnlabeledImages(str(folder), ann_file=str(names), pipeline=OURS)
        record["data_loader"] = loader_figures(
            dataset, args.workers, loads["ours"], args.rounds
        )
    return record


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures in one thread; returns the record."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        return {**environment(PACKAGES), **figures(args, Path(scratch))}


def describe(record: dict[str, Any]) -> str:
    """The record as tables."""
    data = record["data"]
    lines = [
        f"{data['images']} images of {data['kilobytes']} kB and "
        f"{data['megapixels']} megapixels, median of {record['rounds']} rounds",
        "",
        f"{'':44s}{'images/CPU-s':>14s}{'ms':>8s}{'x ours':>8s}",
    ]
    for kind in ("pipelines", "decoders"):
        for name, row in record[kind].items():
            ratio = f"{row['times_ours']:8.2f}" if "times_ours" in row else ""
            speed = f"{row['images_per_cpu_second']:14.0f}{row['milliseconds']:8.2f}"
            lines.append(f"{name:44s}{speed}{ratio}")
        lines.append("")
    psnr_text = f"{record['psnr_against_pillow']}"
    lines.append(f"PSNR of ours against Pillow's filter: {psnr_text}")
    for kind, pack in record["packs"].items():
        lines.append(f"{kind}: {pack['kilobytes']} kB an image, PSNR {pack['psnr']}")
    if "data_loader" in record:
        lines.append(f"DataLoader: {record['data_loader']}")
    return "\n".join(lines)
