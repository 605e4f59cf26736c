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

from _converter import Outcome, make_parser, run

from saim_mm.parity.certificate import certify_classifier
from saim_mm.weights import (
    finetuned_to_release,
    read_state_dict,
    release_to_finetuned,
    write_state_dict,
)


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    source = read_state_dict(args.src)
    conversion = (finetuned_to_release if args.reverse else release_to_finetuned)(
        source
    )
    result = conversion.state_dict
    release, ours = (result, source) if args.reverse else (source, result)
    certificate = certify_classifier(conversion, release, ours, args.num_heads)
    key = "model" if args.reverse else "state_dict"
    return Outcome(certificate, lambda: write_state_dict(args.dst, result, key))


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--reverse", action="store_true", help="mmpretrain to the release"
    )
    sys.exit(run(parser, convert))
