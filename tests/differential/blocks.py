#!/usr/bin/env python3
"""Compares values of random blocks with the gguf package's, bit for bit, in every format.
Usage: blocks.py DECODE_VALUES [--blocks N] [--seed N]
DECODE_VALUES is build/release/tests/decode_values; scripts/test.sh --differential runs this first."""
import argparse
import random
import subprocess
import sys

import gguf
import numpy

FORMATS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
           "IQ4_XS", "MXFP4"]
# Where a block has f16 scales; MXFP4's is a power of two that may be anything but 255.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
          "MXFP4": []}


def random_blocks(name, count, generator):
    """Random in every bit, but for scales that are no numbers: those get another exponent."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = generator.integers(0, 256, (count, size), dtype=numpy.uint8)
    for at in SCALES[name]:
        infinite = blocks[:, at + 1] & 0x7c == 0x7c
        blocks[infinite, at + 1] ^= 0x40
    if name == "MXFP4":
        blocks[blocks[:, 0] == 255, 0] = 254
    return blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoder")
    parser.add_argument("--blocks", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    generator = numpy.random.default_rng(options.seed)
    print(f"seed {options.seed}, gguf and this program on {options.blocks} random blocks of each format\n")
    print("| format | values | negative zeros | different bits |\n| --- | --- | --- | --- |")
    different = 0
    for name in FORMATS:
        blocks = random_blocks(name, options.blocks, generator)
        done = subprocess.run([options.decoder, name], input=blocks.tobytes(), capture_output=True)
        if done.returncode != 0:
            sys.exit(f"blocks.py: {options.decoder} {name}: {done.stderr.decode().strip()}")
        ours = numpy.frombuffer(done.stdout, dtype=numpy.uint32)
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
        theirs = numpy.ascontiguousarray(theirs, dtype=numpy.float32).reshape(-1).view(numpy.uint32)
        if len(ours) != len(theirs):
            sys.exit(f"blocks.py: {name}: {len(ours)} values, gguf has {len(theirs)}")
        wrong = int((ours != theirs).sum())
        different += wrong
        print(f"| {name} | {len(ours):,} | {int((ours == 0x80000000).sum()):,} | {wrong:,} |")
        if wrong:
            first = int(numpy.flatnonzero(ours != theirs)[0])
            print(f"  first: value {first}: {ours[first]:08x}, gguf {theirs[first]:08x}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
