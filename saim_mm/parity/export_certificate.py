"""The certificate of an exported graph: the file runs, and gives what the encoder does.

Numbers of the file are compared with those of the encoder that it was made from, on
the same images, in several batch sizes and, where the graph allows it, image sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .certificate import TOLERANCE
from .export_graph import Runner

Size = tuple[int, int]


@dataclass(frozen=True)
class ExportCertificate:
    """How far a file is from its encoder.

    Attributes:
        differences: Largest absolute difference of features, by what was compared.
        largest: Largest absolute feature of the encoder. Above 1 the limit grows with
            it, as the rounding of float32 does.
        images: Which images were compared.
        runner: What ran the file.
    """

    differences: dict[str, float]
    largest: float
    images: str
    runner: str

    @property
    def limit(self) -> float:
        """Largest difference that passes."""
        return TOLERANCE * max(1.0, self.largest)

    @property
    def passed(self) -> bool:
        """Whether all differences are within the limit; NaN is not."""
        return all(value <= self.limit for value in self.differences.values())

    def __str__(self) -> str:
        lines = [
            f"compared: the encoder with the file in {self.runner}, float32, CPU",
            f"images: {self.images}",
            *(
                f"largest absolute difference, {name}: {value:.2e}"
                for name, value in self.differences.items()
            ),
            f"largest absolute feature: {self.largest:.3g}",
            f"certificate: {'PASSED' if self.passed else 'FAILED'} "
            f"(limit {self.limit:.1e})",
        ]
        return "\n".join(lines)


def certify_export(
    encoder: Runner,
    exported: Runner,
    images: Mapping[Size, tuple[Tensor, Tensor]],
    batches: tuple[int, ...],
    described: str,
    runner: str,
) -> ExportCertificate:
    """Runs both sides.

    Args:
        encoder: From normalised images (B, C, H, W) to features.
        exported: From images as the file wants them to features.
        images: For each size, the same images as the file wants them and normalised.
        batches: Numbers of images that are run at once, at most as many as there are.
        described: Which images these are.
        runner: The name of what runs the file.

    Raises:
        ValueError: If the file does not run.
    """
    differences, largest = {}, 0.0
    for (rows, columns), (given, normalised) in images.items():
        for batch in batches:
            expected = encoder(normalised[:batch])
            name = f"{batch} x {rows} x {columns}"
            try:
                found = exported(given[:batch])
            except Exception as error:  # a size that became a constant in the graph
                first = (str(error).strip().splitlines() or [""])[0]
                raise ValueError(f"The file does not run {name}: {first}") from error
            same = found.shape == expected.shape  # or it would be broadcast
            differences[name] = (
                float((found - expected).abs().max()) if same else float("inf")
            )
            largest = max(largest, float(expected.abs().max()))
    return ExportCertificate(differences, largest, described, runner)


def other_sizes(size: Size, patch: Size) -> list[Size]:
    """Three sizes: that of the encoder, a larger one and another shape."""
    rows, columns = (pixels // one for pixels, one in zip(size, patch, strict=True))
    grids = [
        (rows, columns),
        (rows + max(1, rows // 2), columns + max(1, columns // 2)),
        (max(2, rows // 2), columns + 1),
    ]
    return [(r * patch[0], c * patch[1]) for r, c in grids]
