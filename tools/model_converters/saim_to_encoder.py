#!/usr/bin/env python
"""Takes the encoder out of a pretraining checkpoint, for any mm project.

The result has the names of mmpretrain's VisionTransformer; DST ends with .pth or
.safetensors. mmdet and mmseg load the .pth with
init_cfg=dict(type='Pretrained', checkpoint=DST).
"""

from __future__ import annotations

import argparse
import sys

from _converter import Outcome, make_parser, run

from saim_mm.parity.certificate import certify_encoder
from saim_mm.weights import read_state_dict, saim_to_encoder, write_state_dict


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    pretrained = read_state_dict(args.src)
    conversion = saim_to_encoder(pretrained, args.final_norm, args.prefix)
    certificate = certify_encoder(conversion, pretrained, args.prefix, args.num_heads)
    encoder = conversion.state_dict
    return Outcome(certificate, lambda: write_state_dict(args.dst, encoder))


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--final-norm",
        action="store_true",
        help="keep the decoder's norm as final norm (ln1), from which the release "
        "starts fine-tuning on the class token; not for dense tasks",
    )
    parser.add_argument(
        "--prefix", default="", help="what precedes every key, such as 'backbone.'"
    )
    sys.exit(run(parser, convert))
