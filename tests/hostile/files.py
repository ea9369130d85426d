"""Checkpoints, tokenizers and configurations as they come from broken downloads, broken tools and
malice; and everything a file name can be instead of a file."""
import json
import os
import random
import shutil
import socket
import struct

import faults
from box import KIB, MIB, NOBODY

# Shards


def shards(model):
    return sorted(model.glob("*.safetensors"))


def read_header(shard):
    data = shard.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def write_raw_header(shard, text, payload, length=None):
    text = text if isinstance(text, bytes) else text.encode()
    shard.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)


def edit_header(change):
    """A damage that edits the first shard's header, as parsed JSON, in place or anew."""
    def damage(model, _):
        shard = shards(model)[0]
        header, payload = read_header(shard)
        header = change(header) or header
        write_raw_header(shard, json.dumps(header), payload)
    return damage


def edit_tensor(change, which=1):
    """Edits the entry of one tensor; `which` counts those of the first shard."""
    def edit(header):
        name = [key for key in header if key != "__metadata__"][which]
        change(header[name], header)
    return edit_header(edit)


def raw_header(text, **more):
    def damage(model, _):
        shard = shards(model)[0]
        _, payload = read_header(shard)
        write_raw_header(shard, text, payload, **more)
    return damage


def resize(change):
    def damage(model, _):
        shard = shards(model)[0]
        os.truncate(shard, max(0, change(shard.stat().st_size)))
    return damage


def header_length(change):
    def damage(model, _):
        shard = shards(model)[0]
        data = shard.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        shard.write_bytes(struct.pack("<Q", change(length)) + data[8:])
    return damage


def fill_payload(byte):
    def damage(model, _):
        for shard in shards(model):
            header, payload = read_header(shard)
            write_raw_header(shard, json.dumps(header), byte * len(payload))
    return damage


def punch_hole(model, _):
    shard = shards(model)[0]
    header, payload = read_header(shard)
    write_raw_header(shard, json.dumps(header), b"")
    os.truncate(shard, shard.stat().st_size + len(payload))


def flip_bits(name, count):
    """Random bits of a file (the header, for a shard)."""
    def damage(model, rng):
        file = shards(model)[0] if name == "shard" else model / name
        data = bytearray(file.read_bytes())
        end = min(len(data), 3000) if name == "shard" else len(data)
        for _ in range(count):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    return damage


def many_tensors(count):
    def damage(model, _):
        shard = shards(model)[0]
        header, payload = read_header(shard)
        entry = '"extra.%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        text = json.dumps(header)[:-1] + "," + ",".join(entry % i for i in range(count)) + "}"
        write_raw_header(shard, text, payload)
    return damage


def shifted_payload(model, _):
    shard = shards(model)[0]
    header, payload = read_header(shard)
    text = json.dumps(header).encode()
    write_raw_header(shard, text + b" " * ((8 - len(text)) % 8 + 1), payload)


def gap(model, _):
    shard = shards(model)[0]
    header, payload = read_header(shard)
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]
    write_raw_header(shard, json.dumps(header), b"\0" * 64 + payload)


def rename_first(new):
    def change(header):
        first = [key for key in header if key != "__metadata__"][0]
        header[new] = header.pop(first)
    return edit_header(change)


def add_entry(name, entry):
    return edit_header(lambda header: header.update({name: entry}))


def set_field(field, value, which=1):
    return edit_tensor(lambda entry, _: entry.update({field: value}), which)


def drop_field(field):
    return edit_tensor(lambda entry, _: entry.pop(field))


def empty_entry(dtype):
    return {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}


# name → (damage, codes that run may end with)
BAD = (1,)
ANY = (0, 1)
GOOD = (0,)
SHARD_DAMAGE = {
    "cut-to-0": (resize(lambda n: 0), BAD),
    "cut-to-1": (resize(lambda n: 1), BAD),
    "cut-to-7": (resize(lambda n: 7), BAD),
    "cut-to-8": (resize(lambda n: 8), BAD),
    "cut-to-9": (resize(lambda n: 9), BAD),
    "cut-in-header": (resize(lambda n: 300), BAD),
    "cut-in-half": (resize(lambda n: n // 2), BAD),
    "cut-by-1": (resize(lambda n: n - 1), BAD),
    "cut-by-4096": (resize(lambda n: n - 4096), BAD),
    "longer-by-1": (resize(lambda n: n + 1), ANY),
    "longer-by-1MiB": (resize(lambda n: n + MIB), ANY),
    "longer-by-4GiB-hole": (resize(lambda n: n + (MIB << 12)), ANY),
    "hole": (punch_hole, ANY),
    "zeros": (fill_payload(b"\0"), ANY),
    "nans": (fill_payload(b"\xff"), BAD),
    "infinities": (fill_payload(b"\x80\x7f"), BAD),
    "length-0": (header_length(lambda n: 0), BAD),
    "length-1": (header_length(lambda n: 1), BAD),
    "length-less-1": (header_length(lambda n: n - 9), BAD),
    "length-more-1": (header_length(lambda n: n + 1), ANY),
    "length-more-1000": (header_length(lambda n: n + 1000), BAD),
    "length-100MB": (header_length(lambda n: 100_000_000), BAD),
    "length-2^32": (header_length(lambda n: 1 << 32), BAD),
    "length-2^63": (header_length(lambda n: 1 << 63), BAD),
    "length-2^64-1": (header_length(lambda n: (1 << 64) - 1), BAD),
    "length-2^64-8": (header_length(lambda n: (1 << 64) - 8), BAD),
    "header-empty-object": (raw_header("{}"), BAD),
    "header-list": (raw_header("[]"), BAD),
    "header-null": (raw_header("null"), BAD),
    "header-number": (raw_header("1e999"), BAD),
    "header-text": (raw_header('"x"'), BAD),
    "header-spaces": (raw_header(" " * 100), BAD),
    "header-zeros": (raw_header(b"\0" * 100), BAD),
    "header-trailing-comma": (raw_header('{"a":1,}'), BAD),
    "header-two-values": (raw_header("{}{}"), BAD),
    "header-bom": (raw_header(b"\xef\xbb\xbf{}"), BAD),
    "header-utf16": (raw_header("{}".encode("utf-16")), BAD),
    "header-not-utf8": (raw_header(b'{"\xff\xfe": {}}'), BAD),
    "header-deep-list": (raw_header("[" * 100000), BAD),
    "header-deep-object": (raw_header('{"a":' * 100000), BAD),
    "header-90MB-of-spaces": (raw_header("{" + " " * 90_000_000 + "}"), BAD),
    "header-long-number": (raw_header('{"a":' + "9" * 1_000_000 + "}"), BAD),
    "header-long-text": (raw_header('{"a":"' + "x" * 5_000_000 + '"}'), BAD),
    "entry-null": (add_entry("x", None), BAD),
    "entry-list": (add_entry("x", [1, 2]), BAD),
    "entry-empty": (add_entry("x", {}), BAD),
    "entry-number": (add_entry("x", 7), BAD),
    "no-dtype": (drop_field("dtype"), BAD),
    "no-shape": (drop_field("shape"), BAD),
    "no-offsets": (drop_field("data_offsets"), BAD),
    "dtype-unknown": (set_field("dtype", "BF17"), BAD),
    "dtype-null": (set_field("dtype", None), BAD),
    "dtype-number": (set_field("dtype", 16), BAD),
    "dtype-lower-case": (set_field("dtype", "bf16"), BAD),
    "dtype-empty": (set_field("dtype", ""), BAD),
    "dtype-f32-of-16": (set_field("dtype", "F32"), BAD),
    "dtype-i16": (set_field("dtype", "I16"), BAD),
    "dtype-f16": (set_field("dtype", "F16"), ANY),
    "dtype-newline": (set_field("dtype", "BF16\nBF16"), BAD),
    "shape-empty": (set_field("shape", []), BAD),
    "shape-zero": (set_field("shape", [0, 64]), BAD),
    "shape-negative": (set_field("shape", [-300, -64]), BAD),
    "shape-fraction": (set_field("shape", [150.5, 128]), BAD),
    "shape-text": (set_field("shape", ["64", "64"]), BAD),
    "shape-huge": (set_field("shape", [1 << 63, 4]), BAD),
    "shape-2^64": (set_field("shape", [1 << 64, 1]), BAD),
    "shape-1e308": (set_field("shape", [1e308, 1]), BAD),
    "shape-overflows-to-right": (set_field("shape", [(1 << 60) + 64, 64]), BAD),
    "shape-10000-ones": (set_field("shape", [1] * 10000), BAD),
    "shape-null": (set_field("shape", None), BAD),
    "shape-object": (set_field("shape", {}), BAD),
    "shape-nested": (set_field("shape", [[64], [64]]), BAD),
    "shape-transposed": (edit_tensor(lambda e, _: e["shape"].reverse(), 0), BAD),
    "offsets-one": (set_field("data_offsets", [0]), BAD),
    "offsets-three": (set_field("data_offsets", [0, 1, 2]), BAD),
    "offsets-backwards": (edit_tensor(lambda e, _: e["data_offsets"].reverse()), BAD),
    "offsets-negative": (set_field("data_offsets", [-8192, 0]), BAD),
    "offsets-beyond": (edit_tensor(
        lambda e, _: e.update(data_offsets=[o + (1 << 40) for o in e["data_offsets"]])), BAD),
    "offsets-2^63": (edit_tensor(
        lambda e, _: e.update(data_offsets=[o + (1 << 63) for o in e["data_offsets"]])), BAD),
    "offsets-fraction": (set_field("data_offsets", [0.5, 8192.5]), BAD),
    "offsets-text": (set_field("data_offsets", ["0", "8192"]), BAD),
    "offsets-shifted": (edit_tensor(
        lambda e, _: e.update(data_offsets=[o + 2 for o in e["data_offsets"]])), BAD),
    "offsets-overlap": (edit_tensor(
        lambda e, h: e.update(data_offsets=[0, e["data_offsets"][1] - e["data_offsets"][0]]), 2),
        BAD),
    "offsets-one-off": (edit_tensor(
        lambda e, _: e.update(data_offsets=[e["data_offsets"][0], e["data_offsets"][1] + 1])), BAD),
    "gap": (gap, ANY),
    "odd-alignment": (shifted_payload, GOOD),
    "name-renamed": (rename_first("model.embed.weight"), BAD),
    "name-empty": (rename_first(""), BAD),
    "name-newline": (rename_first("model\nembed\r\x1b[31m"), BAD),
    "name-nul": (rename_first("model\0embed"), BAD),
    "name-1MB": (rename_first("x" * 1_000_000), BAD),
    "name-path": (rename_first("../../../etc/passwd"), BAD),
    "name-surrogate": (raw_header('{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
                       BAD),
    "tensor-missing": (edit_header(
        lambda h: {k: v for k, v in h.items() if "q_proj" not in k}), BAD),
    "tensor-extra": (add_entry("extra", empty_entry("U8")), GOOD),
    "tensor-extra-f8": (add_entry("extra", empty_entry("F8_E4M3")), GOOD),
    "tensor-extra-unknown-dtype": (add_entry("extra", empty_entry("Q9")), ANY),
    "tensor-twice": (raw_header(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'), BAD),
    "metadata-number": (add_entry("__metadata__", 5), ANY),
    "metadata-null": (add_entry("__metadata__", None), ANY),
    "metadata-nested": (add_entry("__metadata__", {"a": {"b": [1]}}), ANY),
    "metadata-1MB": (add_entry("__metadata__", {"a": "x" * 1_000_000}), ANY),
    "40000-tensors": (many_tensors(40_000), GOOD),
    "200000-tensors": (many_tensors(200_000), GOOD),
    **{f"bits-of-header-{i}": (flip_bits("shard", 1 + i), ANY) for i in range(8)},
}
SLOW_TO_SHOW = ("40000-tensors", "200000-tensors")

# The index


def edit_index(change):
    def damage(model, _):
        file = model / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        file.write_text(json.dumps(change(index) or index))
    return damage


def raw_index(content):
    def damage(model, _):
        (model / "model.safetensors.index.json").write_bytes(content)
    return damage


def map_first(value):
    def change(index):
        first = next(iter(index["weight_map"]))
        index["weight_map"][first] = value
    return edit_index(change)


def lose_shard(model, _):
    shards(model)[1].unlink()


def swap_shards(model, _):
    first, second = shards(model)
    first.rename(model / "x")
    second.rename(first)
    (model / "x").rename(second)


def same_shard_twice(model, _):
    first, second = shards(model)
    shutil.copy(first, second)


INDEX_DAMAGE = {
    "empty": (raw_index(b""), BAD),
    "zeros": (raw_index(b"\0" * 4096), BAD),
    "list": (raw_index(b"[]"), BAD),
    "null": (raw_index(b"null"), BAD),
    "no-map": (raw_index(b"{}"), BAD),
    "map-null": (raw_index(b'{"weight_map": null}'), BAD),
    "map-list": (raw_index(b'{"weight_map": []}'), BAD),
    "map-empty": (raw_index(b'{"weight_map": {}}'), BAD),
    "cut": (raw_index(b'{"weight_map": {"a": "model-00001'), BAD),
    "deep": (raw_index(b'{"weight_map": ' + b"[" * 200000), BAD),
    "utf16": (raw_index('{"weight_map": {}}'.encode("utf-16")), BAD),
    "bom": (raw_index(b'\xef\xbb\xbf{"weight_map": {}}'), BAD),
    "shard-number": (map_first(5), BAD),
    "shard-null": (map_first(None), BAD),
    "shard-empty": (map_first(""), BAD),
    "shard-dot": (map_first("."), BAD),
    "shard-dots": (map_first(".."), BAD),
    "shard-path": (map_first("../model/model-00001-of-00002.safetensors"), BAD),
    "shard-absolute": (map_first("/etc/passwd"), BAD),
    "shard-config": (map_first("config.json"), BAD),
    "shard-not-there": (map_first("model-00003-of-00002.safetensors"), BAD),
    "shard-newline": (map_first("model\n00001.safetensors"), BAD),
    "shard-nul": (map_first("model-00001-of-00002.safetensors\0x"), BAD),
    "shard-long-name": (map_first("x" * 5000), BAD),
    "tensor-in-other-shard": (map_first("model-00002-of-00002.safetensors"), BAD),
    "tensor-nowhere": (edit_index(lambda index: index["weight_map"].update(
        {"model.norm2.weight": "model-00001-of-00002.safetensors"})), ANY),
    "tensor-unlisted": (edit_index(lambda index: index["weight_map"].popitem() and index), ANY),
    "size-lies": (edit_index(lambda index: index.update(metadata={"total_size": -1})), ANY),
    "metadata-text": (edit_index(lambda index: index.update(metadata="x")), ANY),
    "10000-missing-shards": (edit_index(lambda index: index["weight_map"].update(
        {f"extra.{i}": f"extra-{i}.safetensors" for i in range(10000)})), BAD),
    "shard-missing": (lose_shard, BAD),
    "shards-swapped": (swap_shards, BAD),
    "shard-twice": (same_shard_twice, BAD),
}

# config.json

REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "vocab_size", "max_position_embeddings")
OPTIONAL = ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
            "hidden_act", "eos_token_id", "rope_scaling", "attention_bias", "sliding_window")
VALUES = {"null": "null", "negative": "-1", "zero": "0", "nan": "NaN", "1e999": "1e999",
          "fraction": "2.5", "text": '"64"', "list": "[64]", "object": "{}", "true": "true",
          "2^31": "2147483648", "2^32+64": "4294967360", "2^64": "18446744073709551616",
          "1e308": "1e308", "prime": "61"}


def edit_config(key, text):
    """Sets a key to raw JSON; no text removes it."""
    def damage(model, _):
        file = model / "config.json"
        config = json.loads(file.read_text())
        config.pop(key, None)
        body = json.dumps(config)[:-1]
        file.write_text(body + (f', "{key}": {text}' if text else "") + "}")
    return damage


def raw_file(name, content):
    def damage(model, _):
        (model / name).write_bytes(content)
    return damage


def config_damage():
    for key in REQUIRED:
        yield f"{key}-missing", edit_config(key, ""), BAD
        for name, text in VALUES.items():
            # A context is free to be another one; what the tensors' shapes say is not.
            free = key == "max_position_embeddings" and name in ("prime", "2^31", "2^32+64")
            yield f"{key}-{name}", edit_config(key, text), ANY if free else BAD
    for key in OPTIONAL:
        for name in ("negative", "zero", "nan", "text", "list", "object", "2^64", "1e308"):
            yield f"{key}-{name}", edit_config(key, VALUES[name]), ANY
    for name, content in {
            "empty": b"", "zeros": b"\0" * 100, "list": b"[]", "text": b'"x"', "null": b"null",
            "binary": bytes(range(256)), "cut": b'{"hidden_size": 6', "deep": b"[" * 300000,
            "deep-objects": b'{"a":' * 300000, "comment": b'{/* */"a": 1}', "two": b"{}{}",
            "nan": b"NaN", "twice": b'{"hidden_size": 64, "hidden_size": 65}',
            "20MB": b" " * 20_000_000 + b"{}", "latin1": b'{"architectures": ["\xe9"]}',
            "html": b"<!DOCTYPE html><html>404</html>", "lfs":
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"}.items():
        yield f"file-{name}", raw_file("config.json", content), BAD
    for name, text in {"null": "null", "text": '"LlamaForCausalLM"', "empty": "[]", "number": "[5]",
                       "unknown": '["MambaForCausalLM"]', "newline": '["Llama\\nFor"]',
                       "nested": '[["LlamaForCausalLM"]]', "two": '["A", "B"]'}.items():
        yield f"architectures-{name}", edit_config("architectures", text), ANY
    for name, text in {"no-factor": '{"type": "linear"}', "zero": '{"type": "linear", "factor": 0}',
                       "unknown": '{"type": "spiral", "factor": 2}', "type-number": '{"type": 3}',
                       "factor-text": '{"type": "linear", "factor": "2"}',
                       "factor-nan": '{"type": "linear", "factor": NaN}'}.items():
        yield f"rope-{name}", edit_config("rope_scaling", text), BAD
    yield "quantized", edit_config("quantization_config", '{"bits": 4}'), BAD
    for name, content in {"empty": b"", "list": b"[]", "eos-negative": b'{"eos_token_id": -5}',
                          "eos-text": b'{"eos_token_id": "2"}', "eos-list": b'{"eos_token_id": []}',
                          "eos-huge": b'{"eos_token_id": 99999999999999}'}.items():
        yield f"generation-{name}", raw_file("generation_config.json", content), ANY


# Tokenizers


def edit_tokenizer(change):
    def damage(model, _):
        file = model / "tokenizer.json"
        data = json.loads(file.read_text())
        file.write_text(json.dumps(change(data) or data))
    return damage


def set_at(*keys_and_value):
    *keys, value = keys_and_value

    def change(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value
    return edit_tokenizer(change)


def cut_file(name, share):
    def damage(model, _):
        os.truncate(model / name, int((model / name).stat().st_size * share))
    return damage


def nested_sequence(depth):
    inner = {"type": "ByteLevel", "add_prefix_space": False}
    for _ in range(depth):
        inner = {"type": "Sequence", "pretokenizers": [inner]}
    return inner


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def merge_of(*merges):
    return set_at("model", "merges", list(merges))


TOKENIZER_DAMAGE = {
    **{f"file-{name}": (raw_file("tokenizer.json", content), BAD) for name, content in {
        "empty": b"", "zeros": b"\0" * 1000, "list": b"[]", "object": b"{}", "null": b"null",
        "text": b'"x"', "model-number": b'{"model": 3}', "model-empty": b'{"model": {}}',
        "deep": b'{"model": ' * 100000, "binary": bytes(range(256)) * 10,
        "utf16": '{"model": {}}'.encode("utf-16")}.items()},
    **{f"cut-{i}": (cut_file("tokenizer.json", i / 8), BAD) for i in range(1, 8)},
    **{f"bits-{i}": (flip_bits("tokenizer.json", 1 + i), ANY) for i in range(8)},
    "model-type-unknown": (set_at("model", "type", "Markov"), BAD),
    "model-type-number": (set_at("model", "type", 5), BAD),
    "vocab-null": (set_at("model", "vocab", None), BAD),
    "vocab-list": (set_at("model", "vocab", ["a", "b"]), BAD),
    "vocab-empty": (set_at("model", "vocab", {}), ANY),
    "vocab-negative-id": (set_at("model", "vocab", "!", -1), BAD),
    "vocab-fraction-id": (set_at("model", "vocab", "!", 1.5), BAD),
    "vocab-text-id": (set_at("model", "vocab", "!", "33"), BAD),
    "vocab-huge-id": (set_at("model", "vocab", "!", 4294967295), ANY),
    "vocab-2^64-id": (set_at("model", "vocab", "!", 1 << 64), BAD),
    "vocab-same-id": (set_at("model", "vocab", "!", 34), ANY),
    "vocab-id-beyond-model": (set_at("model", "vocab", "!", 5000), ANY),
    "vocab-empty-token": (set_at("model", "vocab", "", 299), ANY),
    "vocab-long-token": (set_at("model", "vocab", "x" * 1_000_000, 299), ANY),
    "merges-null": (set_at("model", "merges", None), BAD),
    "merges-object": (set_at("model", "merges", {}), BAD),
    "merges-numbers": (merge_of(1, 2), BAD),
    "merges-unknown": (merge_of("qqq zzz"), ANY),
    "merges-one-word": (merge_of("abc"), BAD),
    "merges-three-words": (merge_of("a b c"), BAD),
    "merges-empty": (merge_of(""), BAD),
    "merges-pair-of-one": (merge_of(["a"]), BAD),
    "merges-pair-numbers": (merge_of([1, 2]), BAD),
    "merges-twice": (merge_of("a b", "a b"), ANY),
    "added-null": (set_at("added_tokens", None), ANY),
    "added-object": (set_at("added_tokens", {}), ANY),
    "added-number": (set_at("added_tokens", [5]), BAD),
    "added-no-id": (set_at("added_tokens", 0, {"content": "<x>"}), BAD),
    "added-negative-id": (set_at("added_tokens", 0, "id", -1), BAD),
    "added-huge-id": (set_at("added_tokens", 0, "id", 4294967295), ANY),
    "added-empty": (set_at("added_tokens", 0, "content", ""), ANY),
    "added-number-content": (set_at("added_tokens", 0, "content", 5), BAD),
    "added-flags-text": (set_at("added_tokens", 0, "special", "yes"), ANY),
    "added-same-content": (set_at("added_tokens", 1, "content", "<|begin|>"), ANY),
    "normalizer-unknown": (set_at("normalizer", {"type": "Rot13"}), BAD),
    "normalizer-number": (set_at("normalizer", 5), ANY),
    "normalizer-sequence-null": (set_at("normalizer", {"type": "Sequence", "normalizers": None}),
                                 BAD),
    "normalizer-empty-replace": (set_at("normalizer", {
        "type": "Replace", "pattern": {"String": ""}, "content": "x"}), ANY),
    "pre-unknown": (set_at("pre_tokenizer", {"type": "Scissors"}), BAD),
    "pre-list": (set_at("pre_tokenizer", []), ANY),
    "pre-deep": (set_at("pre_tokenizer", nested_sequence(20)), ANY),
    "pre-too-deep": (set_at("pre_tokenizer", nested_sequence(5000)), BAD),
    "pre-no-pattern": (set_at("pre_tokenizer", {"type": "Split", "behavior": "Isolated"}), BAD),
    "regex-broken": (set_at("pre_tokenizer", split_by("(")), BAD),
    "regex-lookbehind": (set_at("pre_tokenizer", split_by("(?<=a+)b")), ANY),
    "regex-number": (set_at("pre_tokenizer", split_by(5)), BAD),
    "regex-empty": (set_at("pre_tokenizer", split_by("")), ANY),
    "regex-nested-quantifiers": (set_at("pre_tokenizer", split_by("(a+)+$")), ANY),
    "regex-huge-repeat": (set_at("pre_tokenizer", split_by("(a{1000}){1000}{1000}")), ANY),
    "regex-1MB": (set_at("pre_tokenizer", split_by("a|" * 500_000)), ANY),
    "regex-recursion": (set_at("pre_tokenizer", split_by("(?R)")), ANY),
    "regex-callout": (set_at("pre_tokenizer", split_by("a(?C1)")), ANY),
    "decoder-unknown": (set_at("decoder", {"type": "Enigma"}), BAD),
    "decoder-number": (set_at("decoder", 5), ANY),
    "post-unknown": (set_at("post_processor", {"type": "Stamp"}), BAD),
    "post-unknown-token": (set_at("post_processor", "single", 0, {
        "SpecialToken": {"id": "<nowhere>", "type_id": 0}}), BAD),
    "post-single-null": (set_at("post_processor", "single", None), BAD),
    "post-number": (set_at("post_processor", 5), ANY),
}

# What can stand where a file should


def replace_by(kind):
    """Puts something else in the place of a file."""
    def replace(box, path):
        if path.exists():
            path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            short = os.open(path.parent, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as endpoint:
                endpoint.bind(f"/proc/self/fd/{short}/{path.name}")
            os.close(short)
        elif kind == "null-device":
            faults.node(path, 1, 3)
        elif kind == "zero-device":
            faults.node(path, 1, 5)
        elif kind == "full-device":
            faults.node(path, 1, 7)
        elif kind == "dangling-link":
            path.symlink_to(box.folder / "nothing")
        elif kind == "link-loop":
            path.symlink_to(path.name)
        elif kind == "link-to-memory":
            path.symlink_to("/proc/self/mem")
        elif kind == "link-to-folder":
            path.symlink_to(box.folder)
        elif kind == "missing":
            pass
    return replace


KINDS = ("folder", "fifo", "socket", "null-device", "zero-device", "full-device", "dangling-link",
         "link-loop", "link-to-memory", "link-to-folder", "missing")
PLACES = ("config.json", "tokenizer.json", "generation_config.json", "shard", "index", "yaml",
          "text", "ids", "profile", "trace")


def place_case(place, kind):
    def body(box):
        model = box.model()
        config = box.config(model)
        command = ["run", config, "--quiet"]
        expect = BAD
        if place == "shard":
            path = shards(model)[0]
        elif place == "index":
            path = model / "model.safetensors.index.json"
        elif place == "yaml":
            path = config
        elif place in ("text", "ids"):
            path = box.write(place, "[1, 2, 3]")
            option = "--text-file" if place == "text" else "--token-ids-file"
            command = ["score", config, "--quiet", option, path]
        elif place == "profile":
            path = box.write("profile.json", "{}")
            command = ["plan", config, "--profile", path]
        elif place == "trace":
            path = box.write("trace.json", "{}")
            command = ["trace", path]
        else:
            path = model / place
            if place == "generation_config.json":
                expect = ANY if kind in ("missing", "dangling-link") else BAD
        if kind == "fifo" and place in ("yaml", "text", "ids"):
            content = config.read_bytes() if place == "yaml" else b"[1, 2, 3]"
            path.unlink()  # read like any pipe: `<(...)` of a shell
            box.fifo(path.name, feed=content)
            box.spillway(*command, expect=GOOD if place == "yaml" else ANY)
            return
        replace_by(kind)(box, path)
        box.spillway(*command, expect=expect)
    return body


def unreadable_case(place):
    def body(box):
        model = box.model()
        config = box.config(model)
        command = ["run", config, "--quiet"]
        path = {"config.json": model / "config.json", "tokenizer.json": model / "tokenizer.json",
                "shard": shards(model)[1], "index": model / "model.safetensors.index.json",
                "yaml": config, "folder": model, "generation_config.json":
                model / "generation_config.json"}.get(place)
        if place == "text":
            path = box.write("text", "Hello")
            command = ["score", config, "--quiet", "--text-file", path]
        os.chmod(path, 0)
        box.spillway(*command, expect=BAD, user=NOBODY, says="Permission denied")
        os.chmod(path, 0o700)
    return body


# Names


def name_case(name, link=False):
    """A model, its YAML and its report in a folder of this name."""
    def body(box):
        folder = os.path.join(os.fsencode(box.folder), name)
        os.makedirs(folder)
        if link:
            os.symlink(box.world.models["tiny"], os.path.join(folder, b"model"))
        else:
            shutil.copytree(os.fsencode(box.world.models["tiny"]), os.path.join(folder, b"model"))
        yaml = os.path.join(folder, b"run.yaml")
        with open(yaml, "wb") as file:
            file.write(b'{"model": {"path": "model"}, "device": "host", "memory": {"ram": "256MiB"}'
                       b', "generate": {"prompts": ["Hi"], "max_new_tokens": 2}}')
        report = os.path.join(folder, b"report.json")
        out = os.fsdecode(os.path.relpath(report, os.fsencode(box.folder)))
        box.spillway("run", yaml, "--quiet", "--report", report, outputs=[out])
        box.report(out)
        box.spillway("inspect", os.path.join(folder, b"model"), "--json")
        box.spillway("run", yaml + b"x", expect=1)
        box.spillway("inspect", os.path.join(folder, b"modex"), expect=1)
    return body


def too_long_case(length):
    def body(box):
        model = box.model()
        long = "/" + "x" * 200
        path = str(box.folder) + long * (length // 201) + "/x"
        for arguments in (["run", path], ["inspect", path], ["tokenize", path, "--text", "x"],
                          ["synth", path, "--like", "tiny"], ["trace", path],
                          ["probe", "--path", path, "--seconds", "0.01"],
                          ["run", box.config(model), "--quiet", "--report", path],
                          ["plan", box.config(model), "--profile", path]):
            box.spillway(*arguments, expect=1)
    return body


def folder_case(kind):
    """Something else where the model's folder should be."""
    def body(box):
        path = box.folder / "model"
        if kind == "file":
            path.write_text("x")
        elif kind == "empty-folder":
            path.mkdir()
        elif kind == "only-config":
            box.model()
            for file in path.iterdir():
                if file.name != "config.json":
                    file.unlink()
        else:
            replace_by(kind)(box, path)
        for arguments in (["run", box.config(path)], ["plan", box.config(path)],
                          ["inspect", path], ["tokenize", path, "--text", "x"],
                          ["bench", box.config(path), "--out", box.folder / "out"]):
            box.spillway(*arguments, expect=1)
    return body


def model_case(damage, expect, kind="tiny", command="run"):
    def body(box):
        model = box.model(kind)
        damage(model, random.Random(box.random.random()))
        if command == "inspect":
            box.spillway("inspect", model, "--json", "--verify", expect=ANY)
        elif command == "tokenize":
            box.spillway("tokenize", model, "--text", "Hello, w\u00f6rld " + "a" * 30 + "!",
                         expect=expect)
        else:
            box.spillway("run", box.config(model), "--quiet", expect=expect)
    return body


def tokenizer_model_cases():
    """tokenizer.model, the protobuf of SentencePiece; needs the real one."""
    def with_stories(damage, expect):
        def body(box):
            if "stories" not in box.world.models:
                raise faults.Skip("no stories260K among the test data")
            model_case(damage, expect, "stories", "tokenize")(box)
        return body

    for i in range(8):
        yield f"cut-{i}", with_stories(cut_file("tokenizer.model", i / 8), BAD if i == 0 else ANY)
        yield f"bits-{i}", with_stories(flip_bits("tokenizer.model", 1 << i), ANY)
    for name, content in {"empty": b"", "ones": b"\xff" * 10000, "zeros": b"\0" * 10000,
                          "length-lies": b"\x0a\xff\xff\xff\xff\x0f", "text": b"hello" * 100,
                          "endless-varint": b"\x08" + b"\x80" * 5000}.items():
        yield name, with_stories(raw_file("tokenizer.model", content), BAD)


def big_text_case(content):
    """Texts are bounded, tokenised in linear time, and malformed ones are told."""
    def body(box):
        text = box.write("text", content)
        box.spillway("tokenize", box.world.models["tiny"], "--text-file", text, expect=ANY)
        text = box.write("short", content[:4096])
        box.spillway("score", box.config(box.world.models["tiny"], score={"chunk": 4096}),
                     "--quiet", "--text-file", text, expect=ANY)
    return body


def ids_case(content, expect=BAD):
    def body(box):
        ids = box.write("ids.json", content)
        box.spillway("score", box.config(box.world.models["tiny"]), "--quiet", "--token-ids-file",
                     ids, expect=expect)
    return body


def cases(_):
    for name, (damage, expect) in SHARD_DAMAGE.items():
        yield f"shard/{name}", model_case(damage, expect)
        if name not in SLOW_TO_SHOW:
            yield f"shard-inspect/{name}", model_case(damage, expect, command="inspect")
    yield "shard-single/cut-in-half", model_case(SHARD_DAMAGE["cut-in-half"][0], BAD, "single")
    for name, (damage, expect) in INDEX_DAMAGE.items():
        yield f"index/{name}", model_case(damage, expect)
    for name, damage, expect in config_damage():
        yield f"config/{name}", model_case(damage, expect)
    for name, (damage, expect) in TOKENIZER_DAMAGE.items():
        yield f"tokenizer/{name}", model_case(damage, expect, command="tokenize")
    for name, body in tokenizer_model_cases():
        yield f"tokenizer-model/{name}", body
    for place in PLACES:
        for kind in KINDS:
            yield f"instead/{place}-{kind}", place_case(place, kind)
    for place in ("config.json", "tokenizer.json", "generation_config.json", "shard", "index",
                  "yaml", "text", "folder"):
        yield f"unreadable/{place}", unreadable_case(place)
    for name, raw in {"spaces": b"a model with  spaces", "newline": b"new\nline", "quote": b"a'b\"c",
                      "not-utf8": b"\xff\xfe\x80", "escape": b"\x1b[31mred", "dash": b"-rf",
                      "255-bytes": b"x" * 255, "deep": b"/".join([b"d"] * 200),
                      "emoji": "\U0001f30a".encode(), "colon": b"a:b", "hash": b"#x", "tilde": b"~",
                      "dollar": b"$HOME", "star": b"*", "percent": b"%s%n%d"}.items():
        yield f"name/{name}", name_case(raw)
    yield "name/link", name_case(b"folder", link=True)
    yield "name/longer-than-a-path", too_long_case(5000)
    yield "name/longer-than-any-path", too_long_case(100000)
    for kind in ("file", "empty-folder", "only-config", "fifo", "socket", "null-device",
                 "dangling-link", "link-loop", "missing"):
        yield f"folder/{kind}", folder_case(kind)
    for name, content in {"empty": b"", "nul": b"a\0b", "not-utf8": b"\xff" * 100,
                          "cut-utf8": "h\u00e9".encode()[:2], "bom": b"\xef\xbb\xbfHello",
                          "utf16": "Hello".encode("utf-16"), "binary": bytes(range(256)),
                          "surrogates": b"\xed\xa0\x80" * 10, "one-line-200kB": b"x" * 200 * KIB,
                          "newlines": b"\n" * 20000, "marks": "a\u0301\u0323".encode() * 5000,
                          "specials": b"<|end|>" * 500, "one-letter": b"x"}.items():
        yield f"text/{name}", big_text_case(content)
    for name, content in {"empty": b"", "empty-list": b"[]", "object": b"{}", "number": b"5",
                          "text-ids": b'["1"]', "negative": b"[-1, 2]", "fraction": b"[1.5, 2]",
                          "huge": b"[99999999999999999999]", "outside": b"[1, 300]",
                          "mixed": b"[[1, 2], 3]", "empty-inner": b"[[], []]", "cut": b"[1, 2",
                          "deep": b"[" * 100000, "nested": b"[[[1]]]", "null": b"null",
                          "nan": b"[NaN, 1]", "not-utf8": b"\xff\xff"}.items():
        yield f"ids/{name}", ids_case(content)
    yield "ids/one", ids_case(b"[1]", ANY)
    yield "ids/10000-short-lists", ids_case(json.dumps([[1, 2]] * 10000).encode(), GOOD)


