#!/usr/bin/env python
"""Takes the encoder out of a pretraining checkpoint, for any mm project.

The result has the names of mmpretrain's VisionTransformer; DST ends with .pth or
.safetensors. mmdet and mmseg load the .pth with
init_cfg=dict(type='Pretrained', checkpoint=DST).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    check_passed,
    convert_saim_to_encoder,
)
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--final-norm",
        action="store_true",
        help="keep the decoder's norm as final norm (ln1), from which the release "
        "starts fine-tuning on the class token; not for dense tasks",
    )
    parser.add_argument(
        "--prefix", default="", help="what precedes every key, such as 'backbone.'"
    )
    args = parser.parse_args(argv)
    certificate = convert_saim_to_encoder(**vars(args))
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
