#!/usr/bin/env python3
"""Scoring jobs: data sets in, a folder out, whatever happens in between.
Usage: jobs_test.py SPILLWAY_BINARY [unittest arguments]"""
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

SPILLWAY = ""
KILLS = 50
NOT_COMPARED = {"summary.json"}  # has times


def words(arguments):
    return [SPILLWAY, *map(str, arguments)]


def call(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(words(arguments), text=True, errors="replace", timeout=300, **options)


def tensors(file):
    """Of a safetensors file: {name: (shape, values)}."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        letter = {"F32": "f", "I32": "i", "I64": "q", "BF16": "H", "F16": "e"}[entry["dtype"]]
        count = (end - begin) // struct.calcsize(letter)
        payload = data[8 + length + begin:8 + length + end]
        found[name] = (entry["shape"], struct.unpack(f"<{count}{letter}", payload))
    return found


class Shards:
    """All shards of a sink, joined."""

    def __init__(self, folder, sink):
        index = json.loads((folder / "index.json").read_text())
        self.values = {}
        self.offsets = [0]
        for shard in index["sinks"][sink]:
            for name, (_, values) in tensors(folder / shard["name"]).items():
                if name == "document_offsets":
                    base = self.offsets[-1]
                    self.offsets += [base + value for value in values[1:]]
                else:
                    self.values.setdefault(name, []).extend(values)

    def of(self, name, document, width=1):
        begin, end = self.offsets[document], self.offsets[document + 1]
        return self.values[name][begin * width:end * width]


class Jobs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = pathlib.Path(tempfile.mkdtemp(prefix="spillway-jobs-"))
        cls.addClassCleanup(shutil.rmtree, cls.models)
        os.environ["XDG_CACHE_HOME"] = str(cls.models / "cache")
        for name, shape in (("tiny", ("--like", "tiny")),
                            ("wide", ("--layers", 6, "--hidden", 256, "--intermediate", 1024,
                                      "--heads", 4, "--vocab", 2048))):
            done = call("synth", cls.models / name, *shape)
            assert done.returncode == 0, done.stderr
        cls.vocab = json.loads((cls.models / "wide" / "config.json").read_text())["vocab_size"]

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-jobs-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)

    def ids_file(self, documents=60, most=150, seed=1, name="d.jsonl"):
        """Documents of token ids, some to be scored from their middle."""
        source = random.Random(seed)
        lists = []
        with open(self.root / name, "w") as file:
            for i in range(documents):
                ids = [source.randrange(self.vocab) for _ in range(source.randint(1, most))]
                lists.append(ids)
                file.write(json.dumps({"id": f"d{i}", "input_ids": ids}) + "\n")
        return self.root / name, lists

    def job(self, data, out, *more, model="wide", **options):
        return call("score", self.models / model, "--device", "host", "--ram", "64MiB", "--data",
                    data, "--out", self.root / out, "--quiet", *more, **options)

    def done(self, *arguments, **options):
        done = self.job(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def files(self, out):
        return {p.name: p.read_bytes() for p in sorted((self.root / out).iterdir())
                if p.name not in NOT_COMPARED}

    def rows(self, out):
        return [json.loads(line) for line in (self.root / out / "scores.jsonl").read_text().splitlines()]

    def one_line(self, done, *says, code=1):
        self.assertEqual(done.returncode, code, done.stderr)
        errors = [l for l in done.stderr.splitlines() if not l.startswith("note:")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertTrue(errors[0].startswith("spillway: "), done.stderr)
        for text in says:
            self.assertIn(text, errors[0])

    def assert_same(self, one, other):
        one, other = self.files(one), self.files(other)
        self.assertEqual(list(one), list(other))
        for name in one:
            self.assertEqual(one[name], other[name], name)

    # What comes out ------------------------------------------------------------------------------

    def test_scores_are_those_of_a_run_over_the_same_ids(self):
        data, lists = self.ids_file()
        self.done(data, "out")
        (self.root / "ids.json").write_text(json.dumps(lists))
        report = call("score", self.models / "wide", "--device", "host", "--token-ids-file",
                      self.root / "ids.json", "--json")
        self.assertEqual(report.returncode, 0, report.stderr)
        report = json.loads(report.stdout)
        shards = Shards(self.root / "out", "token_logprobs")
        rows = self.rows("out")
        self.assertEqual(len(rows), len(lists))
        for d, (row, ids) in enumerate(zip(rows, lists)):
            found = shards.of("logprobs", d)
            wanted = [struct.unpack("<f", struct.pack("<f", x))[0] for x in report["logprobs"][d]]
            self.assertEqual(list(found), wanted, d)
            self.assertEqual(list(shards.of("ids", d)), ids[1:])
            self.assertEqual((row["id"], row["document"], row["tokens"]), (f"d{d}", d, len(ids) - 1))
            self.assertAlmostEqual(row["sum_logprob"], math.fsum(found), places=6)
            if len(ids) == 1:
                self.assertIsNone(row["mean_logprob"])
        summary = json.loads((self.root / "out/summary.json").read_text())
        self.assertEqual(summary["tokens"], report["tokens"])
        self.assertAlmostEqual(summary["perplexity"], report["perplexity"], delta=1e-4 * report["perplexity"])

    def test_the_same_bytes_whatever_memory_sweeps_and_threads(self):
        data, _ = self.ids_file(documents=50)
        every = ("--topk", 5, "--set", "score.hidden_states=[0, 3, 6]", "--set", "score.embeddings=mean",
                 "--set", "score.chunk=64", "--set", "score.shard_tokens=700")
        self.done(data, "one", *every)
        for i, more in enumerate((("--set", "score.sweep=64"), ("--set", "score.sweep=200"),
                                  ("--set", "score.sweep=100000"), ("--set", "memory.ram=40MiB"),
                                  ("--set", "placement.policy=nvme", "--set", "stream.unit=256KiB"),
                                  ("--set", "io.engine=pread", "--set", "placement.ram_share=0.3"),
                                  ("--set", "device=host-discrete", "--gpu", "64MiB"),
                                  ("--set", "compute.threads=1"))):
            with self.subTest(more=more):
                self.done(data, f"other{i}", *every, *more)
                self.assert_same("one", f"other{i}")

    def test_sinks_agree_with_each_other(self):
        data, lists = self.ids_file(documents=30)
        self.done(data, "out", "--topk", self.vocab if self.vocab <= 1024 else 1024, "--set",
                  "score.hidden_states=[0, 6]", "--set", "score.embeddings=mean")
        out = self.root / "out"
        logprobs, top, last = (Shards(out, sink) for sink in ("token_logprobs", "topk", "hidden-006"))
        first = Shards(out, "hidden-000")
        embeddings = Shards(out, "embeddings").values["embeddings"]
        rows = self.rows("out")
        hidden = 256
        for d, ids in enumerate(lists):
            scored = len(ids) - 1
            k = 1024
            top_ids, top_logprobs = top.of("ids", d, k), top.of("logprobs", d, k)
            self.assertEqual(len(top_ids), scored * k)
            greedy = True
            for t in range(scored):
                row = list(top_ids[t * k:(t + 1) * k])
                values = top_logprobs[t * k:(t + 1) * k]
                self.assertEqual(list(values), sorted(values, reverse=True))
                self.assertEqual(len(set(row)), k)
                self.assertLess(math.fsum(map(math.exp, values)), 1.0001)
                target = ids[t + 1]
                greedy = greedy and row[0] == target
                if target in row:
                    self.assertAlmostEqual(values[row.index(target)], logprobs.of("logprobs", d)[t],
                                           places=5)
            if scored:
                self.assertEqual(rows[d]["greedy"], greedy)
            states = last.of("hidden", d, hidden)
            self.assertEqual(len(states), len(ids) * hidden)
            self.assertEqual(len(first.of("hidden", d, hidden)), len(ids) * hidden)
            mean = [math.fsum(states[i::hidden]) / len(ids) for i in range(hidden)]
            for i in range(hidden):
                self.assertAlmostEqual(embeddings[d * hidden + i], mean[i], places=5)
        # The same token has the same embedding, wherever it stands.
        seen = {}
        for d, ids in enumerate(lists):
            states = first.of("hidden", d, hidden)
            for t, token in enumerate(ids):
                state = states[t * hidden:(t + 1) * hidden]
                self.assertEqual(seen.setdefault(token, state), state)

    def test_every_kind_of_document(self):
        data = self.root / "d.jsonl"
        data.write_text("\n".join(json.dumps(one) for one in (
            {"text": "Once upon a time"}, {"prompt": "Once upon", "completion": " a time"},
            {"context": "Once upon", "continuation": " a time"}, {"context": "", "continuation": "Once"},
            {"input_ids": [1, 2, 3]})) + "\n")
        (self.root / "t.txt").write_text("Once upon a time\nthere was\n")
        (self.root / "p.bin").write_bytes(struct.pack("<9H", 1, 5, 6, 2, 7, 8, 9, 2, 4))
        done = call("score", self.models / "tiny", "--device", "host", "--data", data,
                    self.root / "t.txt", self.root / "p.bin", "--out", self.root / "out", "--quiet",
                    "--set", "score.lines=true", "--set", "score.token_type=u16", "--set",
                    "score.end_token=2")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.rows("out")
        self.assertEqual(len(rows), 10)
        self.assertEqual([row["tokens"] for row in rows[-3:]], [3, 3, 0])
        self.assertEqual(rows[0]["sum_logprob"], rows[5]["sum_logprob"])
        self.assertLess(rows[1]["tokens"], rows[0]["tokens"])

    def test_windows_overlap_as_far_as_they_are_told(self):
        ids = [random.Random(3).randrange(self.vocab) for _ in range(500)]
        (self.root / "d.jsonl").write_text(json.dumps({"input_ids": ids}) + "\n")
        data = self.root / "d.jsonl"
        for stride in (1 + 30, 64, 99):
            self.done(data, f"s{stride}", "--set", "score.context=100", "--set",
                      f"score.stride={stride}", "--set", "score.hidden_states=6")
            self.assertEqual(len(Shards(self.root / f"s{stride}", "token_logprobs").of("ids", 0)), 499)
            states = Shards(self.root / f"s{stride}", "hidden-006").of("hidden", 0, 256)
            self.assertEqual(len(states), 500 * 256)
        self.one_line(self.job(data, "bad", "--set", "score.context=100", "--set",
                               "score.stride=100"), "score.stride", "below the window of 100")

    def test_a_window_may_hold_the_token_behind_the_context(self):
        """It is scored and not fed; where states are kept it would be fed, and has no place."""
        config = json.loads((self.models / "tiny" / "config.json").read_text())
        context, source = config["max_position_embeddings"], random.Random(4)
        ids = [source.randrange(config["vocab_size"]) for _ in range(context + 1)]
        (self.root / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (
            {"input_ids": ids}, {"input_ids": ids[:-1]},
            {"context_ids": ids[:-1], "continuation_ids": ids[-1:]})))
        logprobs = {}
        for name, settings in (("usual", ()), ("most", ("--set", "score.context=1000000")),
                               ("states", ("--set", "score.context=1000000", "--set",
                                           "score.embeddings=last"))):
            self.done(self.root / "d.jsonl", name, *settings, model="tiny")
            shards = Shards(self.root / name, "token_logprobs")
            self.assertEqual([len(shards.of("ids", i)) for i in range(3)], [context, context - 1, 1])
            logprobs[name] = [shards.of("logprobs", i) for i in range(3)]
        whole, shorter, last = logprobs["most"]
        for one, other in zip(whole, shorter + last, strict=True):
            self.assertAlmostEqual(one, other, places=4)
        # Otherwise the last token is scored in a window without the text's first.
        self.assertGreater(abs(logprobs["usual"][2][0] - last[0]), 1e-4)
        self.assertEqual(logprobs["states"], logprobs["usual"])

    # Parts ---------------------------------------------------------------------------------------

    def test_parts_join_to_the_whole(self):
        data, _ = self.ids_file(documents=41)
        every = ("--topk", 3, "--set", "score.embeddings=last", "--set", "score.chunk=64")
        self.done(data, "whole", *every)
        for i in range(4):
            self.done(data, f"part{i}", *every, "--shard", f"{i + 1}/4")
        done = call("merge", *(self.root / f"part{i}" for i in (2, 0, 3, 1)), "--out",
                    self.root / "merged")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("scores.jsonl", "embeddings.npy"):
            self.assertEqual((self.root / "merged" / name).read_bytes(),
                             (self.root / "whole" / name).read_bytes(), name)
        for sink in ("token_logprobs", "topk", "embeddings"):
            one, other = (Shards(self.root / out, sink) for out in ("whole", "merged"))
            self.assertEqual(one.values, other.values, sink)
            self.assertEqual(one.offsets, other.offsets, sink)
        self.one_line(call("merge", self.root / "part0", self.root / "part1", "--out",
                           self.root / "m"), "missing")

    def test_more_parts_than_documents(self):
        data, lists = self.ids_file(documents=3)
        for i in range(5):
            self.done(data, f"part{i}", "--shard", f"{i + 1}/5")
        done = call("merge", *(self.root / f"part{i}" for i in range(5)), "--out", self.root / "m")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len((self.root / "m/scores.jsonl").read_text().splitlines()), 3)

    # Interrupted ---------------------------------------------------------------------------------

    def test_killed_at_random_points_it_leaves_the_same_bytes(self):
        data, _ = self.ids_file(documents=250, most=120)
        every = ("--topk", 4, "--set", "score.hidden_states=2", "--set", "score.embeddings=mean",
                 "--set", "score.shard_tokens=256", "--set", "score.chunk=64")
        self.done(data, "whole", *every)
        seed = int(os.environ.get("SPILLWAY_SEED", "1"))
        source = random.Random(seed)
        kills = 0
        while kills < KILLS:
            process = subprocess.Popen(
                words(("score", self.models / "wide", "--device", "host", "--ram", "64MiB", "--data",
                       data, "--out", self.root / "killed", "--quiet", *every)),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.assertEqual(process.wait(timeout=source.uniform(0, 0.35)), 0, f"seed {seed}")
                self.assert_same("whole", "killed")
                shutil.rmtree(self.root / "killed")  # and anew
            except subprocess.TimeoutExpired:
                process.kill() if source.random() < 0.8 else process.send_signal(signal.SIGINT)
                process.wait()
                kills += 1
        self.done(data, "killed", *every)
        self.assert_same("whole", "killed")

    def test_a_stop_is_said_and_the_same_command_goes_on(self):
        data, _ = self.ids_file(documents=1200, most=120)
        every = ("--set", "score.shard_tokens=256", "--set", "score.chunk=64")
        process = subprocess.Popen(
            words(("score", self.models / "wide", "--device", "host", "--ram", "64MiB", "--data", data,
                   "--out", self.root / "out", "--quiet", *every)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.wait_for_sweeps(process, "out", 3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("the same command goes on", errors)
        self.one_line(self.job(data, "out", *every, "--set", "score.context=50"), "score", "context")
        self.done(data, "out", *every)
        self.done(data, "whole", *every)
        self.assert_same("whole", "out")
        again = self.done(data, "out", *every)
        self.assertIn("finished before", again.stdout)

    def wait_for_sweeps(self, process, out, count):
        manifest = self.root / out / "manifest.json"
        while process.poll() is None:
            if manifest.exists() and manifest.read_text().count('"number"') >= count:
                return
        self.fail(process.communicate()[1])

    # Faults --------------------------------------------------------------------------------------

    def start(self, data, out, *more):
        return subprocess.Popen(
            words(("score", self.models / "wide", "--device", "host", "--ram", "64MiB", "--data", data,
                   "--out", self.root / out, "--quiet", "--set", "score.shard_tokens=256", "--set",
                   "score.chunk=64", *more)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(self, process):
        out, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, errors)

    def test_data_that_changes_while_it_is_read(self):
        data, _ = self.ids_file(documents=1200, most=120)
        was = data.read_bytes()
        times = data.stat()
        process = self.start(data, "out")
        self.wait_for_sweeps(process, "out", 2)
        data.write_bytes(was[:was.index(b"\n", len(was) // 2) + 1])
        self.one_line(self.ended(process), "d.jsonl")
        self.one_line(self.job(data, "out", "--set", "score.chunk=64"), "data")
        data.write_bytes(was)
        os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.done(data, "out", "--set", "score.chunk=64")
        self.done(data, "whole", "--set", "score.shard_tokens=256", "--set", "score.chunk=64")
        self.assert_same("whole", "out")

    def test_a_folder_that_goes_away(self):
        data, _ = self.ids_file(documents=1200, most=120)
        process = self.start(data, "out")
        self.wait_for_sweeps(process, "out", 2)
        while (self.root / "out").exists():  # the job makes files there meanwhile
            shutil.rmtree(self.root / "out", ignore_errors=True)
        done = self.ended(process)
        self.one_line(done, "out")
        self.assertFalse((self.root / "out").exists())

    def test_two_jobs_on_one_folder(self):
        data, _ = self.ids_file(documents=1200, most=120)
        process = self.start(data, "out")
        self.wait_for_sweeps(process, "out", 1)
        self.one_line(self.job(data, "out", "--set", "score.chunk=64"), "another process")
        process.kill()
        self.ended(process)

    def test_weights_that_change_while_it_runs(self):
        data, _ = self.ids_file(documents=1200, most=120)
        shutil.copytree(self.models / "wide", self.root / "model")
        weights = self.root / "model/model.safetensors"
        process = subprocess.Popen(
            words(("score", self.root / "model", "--device", "host", "--ram", "64MiB", "--data", data,
                   "--out", self.root / "out", "--quiet", "--set", "score.shard_tokens=256", "--set",
                   "score.chunk=64")), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.wait_for_sweeps(process, "out", 2)
        with open(weights, "r+b") as file:
            file.seek(weights.stat().st_size // 2)
            file.write(b"changed")
        self.one_line(self.ended(process), "model.safetensors")

    def test_a_job_goes_on_as_it_computed(self):
        data, _ = self.ids_file(documents=60)
        process = self.start(data, "out", "--set", "compute.prompt_math=f32")
        self.wait_for_sweeps(process, "out", 1)
        process.kill()
        self.ended(process)
        self.one_line(self.job(data, "out", "--set", "score.chunk=64", "--set",
                               "compute.prompt_math=bf16"), "arithmetic", "f32", "bf16")

    def test_chunks_stay_what_they_were_under_another_budget(self):
        data, _ = self.ids_file(documents=40, most=400)
        tight = ("--set", "memory.ram=24MiB", "--set", "score.shard_tokens=512")

        def start(out):
            return call("score", self.models / "wide", "--device", "host", "--data", data, "--out",
                        self.root / out, "--quiet", *tight)
        self.assertEqual(start("tight").returncode, 0)
        chunk = json.loads((self.root / "tight/manifest.json").read_text())["job"]["score"]
        if chunk["chunk_rows"] == chunk["chunk"]:
            self.skipTest("24 MiB leave the chunk whole")
        # Half of a job in little memory goes on in more, with the same bytes.
        manifest = json.loads((self.root / "tight/manifest.json").read_text())
        half = len(manifest["sweeps"]) // 2
        shutil.copytree(self.root / "tight", self.root / "half")
        for sweep in manifest["sweeps"][half:]:
            for shard in sweep["shards"]:
                (self.root / "half" / shard["name"]).unlink()
        (self.root / "half/index.json").unlink()
        (self.root / "half/summary.json").unlink()
        manifest.update(sweeps=manifest["sweeps"][:half], finished=False)
        (self.root / "half/manifest.json").write_text(json.dumps(manifest))
        done = self.job(data, "half", "--set", "score.shard_tokens=512")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same("tight", "half")
        self.one_line(call("score", self.models / "wide", "--device", "host", "--ram", "24MiB", "--data",
                           data, "--out", self.root / "part", "--shard", "1/2"), "all parts of a job")

    def test_no_report_goes_into_the_folder_of_results(self):
        data, _ = self.ids_file(documents=3)
        (self.root / "out").mkdir()
        for name in ("summary.json", "report.json"):
            self.one_line(self.job(data, "out", "--report", self.root / "out" / name), "results")
        self.one_line(self.job(data, "o2", "--report", self.root / "o2"), "results")
        self.assertEqual(list((self.root / "out").iterdir()), [])
        self.done(data, "out", "--report", self.root / "r.json")
        (self.root / "r.json").unlink()
        self.done(data, "out", "--report", self.root / "r.json")
        self.assertEqual(json.loads((self.root / "r.json").read_text())["job"]["documents"], 3)

    def test_a_full_drive(self):
        data, _ = self.ids_file(documents=300, most=120)
        every = ("--set", "score.shard_tokens=2048", "--set", "score.chunk=64", "--topk", 8)
        limit = 20_000  # of a file: scores.jsonl or a shard

        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        done = self.job(data, "out", *every, preexec_fn=limited)
        self.one_line(done, "out/", "ulimit -f", "what is finished is kept")
        self.assertFalse(list((self.root / "out").glob("*.partial")))
        self.done(data, "out", *every)
        self.done(data, "whole", *every)
        self.assert_same("whole", "out")

    def test_a_damaged_result_is_not_built_upon(self):
        data, _ = self.ids_file(documents=300, most=120)
        process = self.start(data, "out")
        self.wait_for_sweeps(process, "out", 3)
        process.kill()
        self.ended(process)
        shard = self.root / "out/token_logprobs-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-4])
        self.one_line(self.job(data, "out", "--set", "score.chunk=64"), "token_logprobs-00001")

    # Wrong words ---------------------------------------------------------------------------------

    def test_bad_documents_are_named_or_skipped(self):
        data = self.root / "d.jsonl"
        data.write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [1, 2\n{"input_ids": [1, 99999999]}\n'
                        '{"input_ids": [4, 5]}\n')
        self.one_line(self.job(data, "out"), "d.jsonl", "line 2")
        self.assertFalse((self.root / "out").exists())
        done = self.done(data, "out", "--skip-bad")
        self.assertEqual(len((self.root / "out/scores.jsonl").read_text().splitlines()), 2)
        summary = json.loads((self.root / "out/summary.json").read_text())
        self.assertEqual(summary["skipped_documents"], 2, done.stderr)

    def test_what_goes_together(self):
        data, _ = self.ids_file(documents=3)
        tiny = self.models / "tiny"
        self.one_line(call("score", tiny, "--data", data), "--out")
        self.one_line(call("score", tiny), "nothing to score")
        self.one_line(call("score", tiny, "--text-file", data, "--out", self.root / "o"), "--data")
        self.one_line(self.job(data, "o", "--shard", "3/2"), "--shard", "3/2")
        self.one_line(self.job(data, "o", "--shard", "0/2"), "--shard")
        self.one_line(self.job(self.root / "none.jsonl", "o"), "none.jsonl")
        self.one_line(self.job(data, "o", "--set", "score.hidden_states=7"), "hidden_states", "0", "6")
        (self.root / "e.jsonl").write_text("")
        self.one_line(self.job(self.root / "e.jsonl", "o"), "e.jsonl")
        (self.root / "one.jsonl").write_text('{"input_ids": [5]}\n')
        self.one_line(self.job(self.root / "one.jsonl", "o"), "two tokens")
        self.assertFalse((self.root / "o").exists())
        self.one_line(self.job(data, "."), "no file of this job")

    def test_a_configuration_may_hold_all_of_it(self):
        data, _ = self.ids_file(documents=5)
        (self.root / "job.yaml").write_text(json.dumps({
            "model": {"path": str(self.models / "wide")}, "device": "host", "memory": {"ram": "64MiB"},
            "score": {"data": data.name, "out": "results", "topk": 2}}))
        done = call("score", self.root / "job.yaml", "--json", cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["job"]["documents"], 5)
        self.assertTrue((self.root / "results/topk-00000.safetensors").exists())


if __name__ == "__main__":
    SPILLWAY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
