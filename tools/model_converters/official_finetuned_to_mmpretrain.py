#!/usr/bin/env python
"""Converts the release's classifier to mmpretrain, or back with --reverse.

Fine-tuned models and linear probes alike.

The result fits an ImageClassifier with a VisionTransformer (or SAIMViT) and a
LinearClsHead: out_type='cls_token' and final_norm=True if the release classifies by the
class token, out_type='avg_featmap' and final_norm=False if by the mean of the patches.
A linear probe needs neck=dict(type='ClsBatchNormNeck', input_features=WIDTH) as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    check_passed,
    convert_finetuned_to_mmpretrain,
)
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--reverse", action="store_true", help="mmpretrain to the release"
    )
    args = parser.parse_args(argv)
    certificate = convert_finetuned_to_mmpretrain(**vars(args))
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
