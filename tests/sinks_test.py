#!/usr/bin/env python3
"""What sinks write, read by numpy and the safetensors library: sinks_test.py SINKS_FILES.

Skipped (exit code 77) with a message where these are not installed."""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    from safetensors import safe_open
except ImportError as missing:
    print(f"skipped: no {missing.name} for Python here (pip install numpy safetensors)")
    sys.exit(77)

DOCUMENTS, HIDDEN, K = 11, 5, 3  # of tests/sinks_job.h


def value(document, i):
    return -numpy.float32((7919 + document * 104729 + i * 31) % 1009) / numpy.float32(64)


def values(document, count):
    return numpy.array([value(document, i) for i in range(count)], numpy.float32)


def tokens_of(document):
    return 1 + (1 + document * 5) % 9


def shards(folder, sink):
    """Each shard of a sink, open, with its part of the index."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["sinks"][sink]:
        with safe_open(folder / shard["name"], "numpy") as file:
            assert int(file.metadata()["first_document"]) == shard["documents"]["first"]
            yield shard, file


def documents(folder, sink):
    """Each document of a sink: its number, its tokens' range, the file."""
    number = 0
    for shard, file in shards(folder, sink):
        offsets = file.get_tensor("document_offsets")
        assert offsets.dtype == numpy.int64 and len(offsets) == shard["documents"]["count"] + 1
        assert offsets[0] == 0 and offsets[-1] == shard["rows"]
        for begin, end in zip(offsets, offsets[1:]):
            assert end - begin == tokens_of(number)
            yield number, slice(begin, end), file
            number += 1
    assert number == DOCUMENTS


def check_token_logprobs(folder):
    for number, span, file in documents(folder, "token_logprobs"):
        logprobs, ids = file.get_tensor("logprobs"), file.get_tensor("ids")
        assert logprobs.dtype == numpy.float32 and ids.dtype == numpy.int32
        expected = values(number, tokens_of(number))
        assert (logprobs[span] == expected).all()
        assert (ids[span] == (-expected * 64).astype(numpy.int32)).all()


def check_topk(folder):
    for number, span, file in documents(folder, "topk"):
        count = tokens_of(number)
        expected = values(number, count * K).reshape(count, K)
        assert (file.get_tensor("logprobs")[span] == expected).all()
        assert (file.get_tensor("ids")[span] == (-expected * 64).astype(numpy.int32)).all()
        assert (file.get_tensor("logsumexp")[span] == values(number, count)).all()


def bfloat16(numbers):
    """Rounded to nearest even, as bits."""
    bits = numbers.view(numpy.uint32).astype(numpy.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def bf16_tensor(path, name):
    """The bits of a tensor whose type numpy lacks."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:8 + length])[name]
    begin, end = entry["data_offsets"]
    assert entry["dtype"] == "BF16" and length % 8 == 0
    return numpy.frombuffer(raw[8 + length + begin:8 + length + end], numpy.uint16).reshape(entry["shape"])


def check_hidden(folder):
    for shard, file in shards(folder, "hidden-003"):
        assert file.get_slice("hidden").get_shape() == [shard["rows"], HIDDEN]
        bits = bf16_tensor(folder / shard["name"], "hidden")
        row = 0
        first = shard["documents"]["first"]
        for number in range(first, first + shard["documents"]["count"]):
            count = tokens_of(number)
            expected = bfloat16(values(number, count * HIDDEN)).reshape(count, HIDDEN)
            assert (bits[row:row + count] == expected).all()
            row += count


def check_embeddings(folder):
    expected = numpy.stack([values(number, HIDDEN) for number in range(DOCUMENTS)])
    for array in (numpy.load(folder / "embeddings.npy"), numpy.load(folder / "embeddings.npy", mmap_mode="r")):
        assert array.dtype == numpy.float32 and array.shape == (DOCUMENTS, HIDDEN)
        assert (array == expected).all()
    parts = [file.get_tensor("embeddings") for _, file in shards(folder, "embeddings")]
    assert (numpy.concatenate(parts) == expected).all()


def check_scores(folder):
    rows = [json.loads(line) for line in (folder / "scores.jsonl").open()]
    assert [row["document"] for row in rows] == list(range(DOCUMENTS))
    for row in rows:
        assert row["tokens"] == tokens_of(row["document"])
        total = values(row["document"], row["tokens"]).astype(float).sum()
        assert abs(row["sum_logprob"] - total) < 1e-9
        assert abs(row["mean_logprob"] * row["tokens"] - total) < 1e-9


def main():
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "out"
        subprocess.run([sys.argv[1], folder], check=True)
        for check in (check_token_logprobs, check_topk, check_hidden, check_embeddings, check_scores):
            check(folder)
            print(check.__name__, "passed")


if __name__ == "__main__":
    main()
