#!/usr/bin/env python3
"""What the program writes, and what it must never lose: outputs that point at inputs, at each other, at
devices, links and FIFOs; text that cannot be printed; runs that fail or are killed half way.
Usage: outputs_test.py SPILLWAY_BINARY [unittest arguments]"""
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import stat
import resource
import subprocess
import sys
import tempfile
import threading
import unittest

SPILLWAY = ""
MIB = 1024 * 1024


def words(arguments):
    return [SPILLWAY, *map(str, arguments)]


def call(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(words(arguments), text=True, errors="replace", timeout=120, **options)


class Outputs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = pathlib.Path(tempfile.mkdtemp(prefix="spillway-outputs-"))
        cls.addClassCleanup(shutil.rmtree, cls.models)
        os.environ["XDG_CACHE_HOME"] = str(cls.models / "cache")
        for name, shape in (("tiny", ("--like", "tiny", "--shards", 2)),
                            ("wide", ("--layers", 8, "--hidden", 512, "--intermediate", 2048,
                                      "--heads", 8, "--vocab", 4096))):
            done = call("synth", cls.models / name, *shape)
            assert done.returncode == 0, done.stderr

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-outputs-"))
        self.addCleanup(shutil.rmtree, self.root)

    def model(self, name="tiny"):
        shutil.copytree(self.models / name, self.root / "model", dirs_exist_ok=True)
        return self.root / "model"

    def config(self, model=None, **sections):
        values = {"model": {"path": str(model or self.models / "tiny")}, "device": "host",
                  "memory": {"ram": "256MiB"},
                  "generate": {"prompts": ["Hello"], "max_new_tokens": 3, "ignore_eos": True},
                  **sections}
        path = self.root / "run.yaml"
        path.write_text(json.dumps(values))
        return path

    def trace(self):
        trace = self.root / "trace.json"
        done = call("run", self.config(), "--quiet", "--trace", trace)
        self.assertEqual(done.returncode, 0, done.stderr)
        return trace

    def one_line(self, done, *says, code=1):
        self.assertEqual(done.returncode, code, done.stderr)
        errors = [l for l in done.stderr.splitlines() if not l.startswith(("note:", "plan: "))]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertTrue(errors[0].startswith("spillway: "), done.stderr)
        for text in says:
            self.assertIn(text, errors[0])

    def tree(self):
        return {p: p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def unchanged(self, *arguments, says):
        before = self.tree()
        self.one_line(call(*arguments), says)
        self.assertEqual(self.tree(), before)

    # What must not be written

    def test_inputs_are_not_overwritten(self):
        model = self.model()
        config = self.config(model)
        text = self.root / "text.txt"
        text.write_text("")  # empty: only its being an input protects it
        (self.root / "link").symlink_to(model / "config.json")
        os.link(model / "tokenizer.json", self.root / "hard")
        (self.root / "up").symlink_to(self.root)
        inputs = [*sorted(model.iterdir()), config, self.root / "link", self.root / "hard",
                  self.root / "up" / "run.yaml", model / ".." / "run.yaml",
                  model / "tokenizer_config.json"]  # the last is not there yet
        self.assertGreaterEqual(len(inputs), 10)
        for path in inputs:
            with self.subTest(path=path.name):
                self.unchanged("run", config, "--quiet", "--report", path, says="it is also")
                self.unchanged("run", config, "--quiet", "--set", f"trace={path}", says="it is also")
        self.unchanged("score", config, "--text-file", text, "--report", text,
                       says="it is also the text")
        config.write_text(config.read_text()[:-1] + f', "report": "{model / "config.json"}"}}')
        self.unchanged("run", config, says="it is also a file of the model")

    def test_a_model_in_gguf_is_not_overwritten(self):
        folder = self.root / "models"
        folder.mkdir()
        for name, more in (("m.gguf", ()), ("parts.gguf", ("--shards", 3))):
            done = call("synth", folder / name, "--like", "tiny", "--dtype", "Q4_K", *more)
            self.assertEqual(done.returncode, 0, done.stderr)
        model = folder / "m.gguf"
        first = folder / "parts-00001-of-00003.gguf"
        text = self.root / "text.txt"
        text.write_text("Some text")
        (self.root / "link").symlink_to(model)
        os.link(model, self.root / "hard")
        for path in (model, folder / "parts-00002-of-00003.gguf", self.root / "link",
                     self.root / "hard", folder / "new.gguf"):
            also = "it is also a file of the model"
            with self.subTest(path=path.name):
                for named in (model, first):
                    if named == first and path.name in ("link", "hard"):
                        continue
                    self.unchanged("run", named, "-p", "x", "--quiet", "--report", path, says=also)
                    self.unchanged("run", named, "-p", "x", "--quiet", "--trace", path, says=also)
                    self.unchanged("score", named, "--text-file", text, "--report", path, says=also)
                self.unchanged("init", model, "-o", path,
                               says="is there already" if path.exists() else also)
                self.unchanged("probe", "--path", model, "--device", "host", "--out", path,
                               says="it is also")
                if path.exists():
                    self.unchanged("bench", model, "--quiet", "--out", path, says="--out")
                    self.unchanged("synth", path, "--like", "tiny", "--format", "gguf", says="exists"
                                   if path.suffix == ".gguf" else "")
        for command in (("run", model, "-p", "x", "--quiet"), ("plan", model), ("inspect", model),
                        ("tokenize", model, "--text", "x"), ("init", model, "-o", "-"),
                        ("score", model, "--text-file", text)):
            for path in (model, folder / "parts-00003-of-00003.gguf", self.root / "hard"):
                before = path.read_bytes()
                with self.subTest(command=command[0], path=path.name), open(path, "a") as out:
                    self.one_line(call(*command, stdout=out), "it is also a file of the model")
                self.assertEqual(path.read_bytes(), before)
        # Elsewhere a .gguf file is foreign, whichever model runs.
        other = self.root / "other.gguf"
        shutil.copy(model, other)
        self.unchanged("run", model, "-p", "x", "--quiet", "--report", other, says="no report of Spillway")
        with self.subTest("a picture"):
            self.unchanged("trace", self.trace(), "--svg", model, says="no picture of Spillway")

    def test_outputs_are_not_each_other(self):
        config = self.config()
        (self.root / "link").symlink_to(self.root / "a")
        for other in ("a", "link"):
            self.unchanged("run", config, "--report", self.root / "a", "--trace",
                           self.root / other, says="it is also the report")
        with open(self.root / "text", "w") as text:
            self.one_line(call("run", config, "--report", self.root / "text", stdout=text),
                          "where the text goes")

    def test_text_does_not_go_into_inputs(self):
        model = self.model()
        config = self.config(model)
        for path, role in ((config, "the configuration"), (model / "config.json", "a file of the model")):
            before = path.read_bytes()
            with open(path, "a") as text:
                self.one_line(call("run", config, "--quiet", stdout=text), f"it is also {role}")
            self.assertEqual(path.read_bytes(), before)
        for path, command in ((config, ("plan", config)), (self.trace(), ("trace", self.trace())),
                              (model / "config.json", ("inspect", model))):
            before = path.read_bytes()
            with open(path, "a") as text:
                self.one_line(call(*command, stdout=text), "it is also")
            self.assertEqual(path.read_bytes(), before)

    def test_files_of_others_are_not_overwritten(self):
        model = self.model()
        config = self.config(model)
        trace = self.trace()
        mine = self.root / "mine"
        mine.write_text("the only copy")
        self.unchanged("run", config, "--report", mine, says="no report of Spillway")
        self.unchanged("run", config, "--trace", mine, says="no trace of Spillway")
        self.unchanged("run", config, "--report", trace, says="no report of Spillway")
        self.unchanged("trace", trace, "--svg", trace, says="it is also the trace")
        self.unchanged("trace", trace, "--svg", mine, says="no picture of Spillway")
        probe = ("probe", "--path", model, "--seconds", "0.01", "--device", "host", "--out")
        self.unchanged(*probe, mine, says="no profile of Spillway")
        for path in (model / "config.json", model / "model-00001-of-00002.safetensors"):
            self.unchanged(*probe, path, says="it is also a file of the model")
        (self.root / "out" / "arms").mkdir(parents=True)
        (self.root / "out" / "bench.html").write_text("mine")
        self.unchanged("bench", config, "--quiet", "--out", self.root / "out",
                       says="no results of Spillway")
        self.unchanged("synth", model, "--like", "tiny", says="not empty")

    def test_own_files_are_replaced(self):
        report = self.root / "r.json"
        partial = self.root / "r.json.partial"
        partial.write_text("mine")
        for _ in range(2):
            done = call("run", self.config(), "--quiet", "--report", report)
            self.assertEqual(done.returncode, 0, done.stderr)
            json.loads(report.read_text())
        self.assertEqual(partial.read_text(), "mine")
        self.assertEqual({p.name for p in self.root.iterdir()},
                         {"r.json", "r.json.partial", "run.yaml"})

    def test_what_cannot_be_written_is_told_before_the_work(self):
        # The model is not there: whoever looks at the outputs first names the report.
        config = self.config(self.root / "no-model")
        for path in (self.root / "no" / "r.json", self.root, "/proc/r.json", config / "r.json",
                     self.root / ("x" * 256)):
            self.one_line(call("run", config, "--report", path), "cannot write report")
            self.one_line(call("score", config, "--text-file", config, "--trace", path),
                          "cannot write trace")
        self.one_line(call("trace", self.root / "none", "--svg", self.root / "no" / "x"),
                      "cannot write picture")
        self.one_line(call("probe", "--path", "/dev/shm", "--out", config / "p.json"),
                      "cannot write profile")

    # Devices, links and FIFOs

    def device(self, name, minor):
        """A device of the test's own where that can be made: as root a mistake would replace the
        system's."""
        node = self.root / f"device-{name}"
        try:
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        except OSError:
            return pathlib.Path("/dev") / name
        return node

    def test_devices_and_links_stay_what_they_are(self):
        null = self.device("null", 3)
        (self.root / "link").symlink_to("target")
        (self.root / "to-null").symlink_to(null)
        for path in (null, self.root / "link", self.root / "to-null"):
            done = call("run", self.config(), "--quiet", "--report", path, "--trace", null)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(stat.S_ISCHR(null.stat().st_mode))
        self.assertTrue((self.root / "link").is_symlink())
        self.assertTrue((self.root / "to-null").is_symlink())
        json.loads((self.root / "target").read_text())

    def test_fifos_and_descriptors_are_written_through(self):
        fifo = self.root / "fifo"
        os.mkfifo(fifo)
        self.one_line(call("run", self.config(), "--report", fifo), "nobody reads there")
        got = []
        reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
        reader.start()
        done = call("run", self.config(), "--quiet", "--report", fifo)
        reader.join()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(got[0])["outputs"][0]["finish_reason"], "length")
        with open(self.root / "all", "w") as file:
            done = call("run", self.config(), "--quiet", "--report", "/dev/stdout", stdout=file)
        self.assertEqual(done.returncode, 0, done.stderr)
        text, report = (self.root / "all").read_text().split("\n", 1)
        self.assertEqual(json.loads(report)["outputs"][0]["text"], text)

    # Text that cannot be printed

    def commands(self):
        config = self.config()
        trace = self.trace()
        text = self.root / "text.txt"
        text.write_text("Some text")
        lines = self.root / "lines"
        lines.write_text('"a"\n')
        tiny = self.models / "tiny"
        return [("run", config, "--quiet"), ("run", config), ("plan", config),
                ("plan", config, "--json"), ("score", config, "--text-file", text),
                ("inspect", tiny), ("inspect", tiny, "--json"), ("inspect", tiny, "--verify"),
                ("tokenize", tiny, "--text", "a"), ("tokenize", tiny, "--text", "a", "--decode"),
                ("tokenize", tiny, "--text-file", lines, "--lines"), ("trace", trace),
                ("--help",), ("--version",), ("run", "--help")]

    def test_lost_text_is_an_error_in_every_command(self):
        with open("/dev/full", "w") as full:
            for command in self.commands():
                with self.subTest(command=command):
                    self.one_line(call(*command, stdout=full), "cannot write to stdout")
        for command in (("run", self.config(), "--quiet"), ("--version",)):
            self.one_line(call(*command, preexec_fn=lambda: os.close(1)), "cannot write to stdout")
            self.one_line(call(*command, stdout=self.closed_pipe()), "cannot write to stdout")
        target = self.root / "new"
        with open("/dev/full", "w") as full:
            self.one_line(call("synth", target, "--like", "tiny", stdout=full), "to stdout",
                          f"{target} is written, and whole")
        self.assertTrue((target / "model.safetensors").exists())

    def test_lost_text_of_quantize_says_that_the_file_is_whole(self):
        whole = self.root / "whole.gguf"
        quantize = ("quantize", self.models / "tiny", "--type", "q8_0")
        self.assertEqual(call(*quantize, whole).returncode, 0)
        for number, words in enumerate(((), ("--quiet",), ("--json",))):
            with self.subTest(words=words), open("/dev/full", "w") as full:
                for name, stdout in (("full", full), ("pipe", self.closed_pipe())):
                    target = self.root / f"{name}-{number}.gguf"
                    done = call(*quantize, target, *words, stdout=stdout)
                    self.one_line(done, "cannot write to stdout", f"{target} is written, and whole")
                    self.assertEqual(target.read_bytes(), whole.read_bytes())

    @staticmethod
    def closed_pipe():
        reader, writer = os.pipe()
        os.close(reader)
        return writer

    def test_lost_text_takes_no_file_along(self):
        report, trace = self.root / "r.json", self.root / "t.json"
        done = call("run", self.config(), "--report", report, "--trace", trace,
                    stdout=self.closed_pipe())
        self.one_line(done, "Broken pipe")
        self.assertEqual(len(json.loads(report.read_text())["outputs"][0]["output_token_ids"]), 3)
        self.assertIn("traceEvents", json.loads(trace.read_text()))
        # Nor a report that cannot be kept the text and the trace.
        trace.unlink()
        full = self.device("full", 7)
        done = call("run", self.config(), "--quiet", "--report", full, "--trace", trace)
        self.one_line(done, str(full), "No space left")
        self.assertTrue(stat.S_ISCHR(full.stat().st_mode))
        self.assertTrue(done.stdout.strip())
        self.assertIn("traceEvents", json.loads(trace.read_text()))

    def test_closed_streams_are_not_taken_for_files(self):
        report = self.root / "r.json"

        def close_all():
            for fd in range(3):
                os.close(fd)

        done = call("run", self.config(), "--report", report, preexec_fn=close_all)
        self.assertEqual(done.returncode, 1)
        json.loads(report.read_text())
        # Nobody needs stderr: a run whose notes and progress go nowhere is whole.
        with open("/dev/full", "w") as full:
            done = call("run", self.config(), "--quiet", stderr=full)
        self.assertEqual(done.returncode, 0)
        self.assertTrue(done.stdout.strip())

    def test_full_disk(self):
        if os.getuid() != 0:
            self.skipTest("mounting a small file system needs root")
        mount = self.root / "small"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", mount]).returncode:
            self.skipTest("no tmpfs can be mounted here")
        try:
            (mount / "filler").write_bytes(b"x" * 4096)
            old = '{"device": "host", "compute": "x", "model": {}}'
            (mount / "r.json").write_text(old)
            done = call("run", self.config(), "--quiet", "--report", mount / "r.json", "--trace",
                        self.root / "t.json")
            self.one_line(done, "cannot write report", "No space left")
            self.assertTrue(done.stdout.strip())
            self.assertTrue((self.root / "t.json").exists())
            self.assertEqual({p.name for p in mount.iterdir()}, {"filler", "r.json"})
            self.assertEqual((mount / "r.json").read_text(), old)
            with open(mount / "text", "w") as text:
                self.one_line(call("inspect", self.models / "wide", "--json", stdout=text),
                              "No space left")
        finally:
            subprocess.run(["umount", mount], check=True)

    # Runs that do not come to their end

    def long_run(self, model):
        return self.config(model, placement={"policy": "nvme"}, io={"direct": "off"},
                           generate={"prompts": ["a", "b"], "max_new_tokens": 600,
                                     "ignore_eos": True})

    def until_progress(self, pattern, *arguments):
        """Starts a command on a terminal and waits for a progress line."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = subprocess.Popen(words(arguments), stdout=subprocess.PIPE, stderr=theirs)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        os.close(theirs)
        seen = b""
        while not re.search(pattern, seen):
            seen += os.read(ours, 4096)  # fails where the command has ended

        def drain():
            try:
                while os.read(ours, 4096):
                    pass
            except OSError:
                pass

        drainer = threading.Thread(target=drain, daemon=True)
        drainer.start()
        return process

    def cut_under(self, model, progress, *arguments):
        """(report, text) of a command whose weights are cut once it shows that progress."""
        report = self.root / "r.json"
        process = self.until_progress(progress, *arguments, "--report", report)
        os.truncate(model / "model.safetensors", MIB)
        output = process.communicate(timeout=60)[0].decode()
        self.assertEqual(process.returncode, 1)
        data = json.loads(report.read_text())
        self.assertIn("model.safetensors", data["error"])
        return data, output

    def test_a_file_cut_while_it_is_read_costs_no_text(self):
        model = self.model("wide")
        trace = self.root / "t.json"
        data, output = self.cut_under(model, rb"[1-9]\d*/1200 tokens", "run",
                                      self.long_run(model), "--trace", trace)
        self.assertFalse(data["interrupted"])
        self.assertGreater(len(data["passes"]), 0)
        for number, answer in enumerate(data["outputs"], 1):
            self.assertEqual(answer["finish_reason"], "error")
            self.assertGreater(len(answer["output_token_ids"]), 0)
            self.assertIn(f"--- prompt {number} (error)\n{answer['text']}\n", output)
        self.assertIn("traceEvents", json.loads(trace.read_text()))

    def test_a_file_cut_while_scoring_costs_no_score(self):
        model = self.model("wide")
        ids = self.root / "ids.json"
        ids.write_text(json.dumps([list(range(1, 33))] * 400))
        config = self.config(model, placement={"policy": "nvme"}, io={"direct": "off"},
                             score={"chunk": 32})
        data, output = self.cut_under(model, rb"[1-9]\d*/12800 tokens", "score", config,
                                      "--token-ids-file", ids)
        self.assertGreater(data["tokens"], 0)
        self.assertEqual(data["tokens"], sum(map(len, data["logprobs"])))
        self.assertIn(f"over {data['tokens']} tokens", output)

    def test_damaged_weights_still_report(self):
        model = self.model()
        data = json.loads(call("inspect", model, "--json").stdout)
        tensor = next(t for t in data["tensors"] if t["name"] == "model.norm.weight")
        with open(tensor["file"], "r+b") as file:
            file.seek(tensor["offset"])
            file.write(b"\xc0\x7f" * (tensor["bytes"] // 2))
        report = self.root / "r.json"
        self.one_line(call("run", self.config(model), "--report", report), "not a number")
        self.assertIn("not a number", json.loads(report.read_text())["error"])

    def test_stopped_while_loading_still_reports(self):
        report = self.root / "r.json"
        config = self.config(self.models / "wide", placement={"policy": "ram"},
                             io={"direct": "off", "engine": "pread", "depth": 1, "chunk": "64KiB"},
                             generate={"prompts": ["a"], "max_new_tokens": 600, "ignore_eos": True})
        for _ in range(20):  # a fast drive may be done before there is progress to show
            try:
                process = self.until_progress(rb"loading", "run", config, "--report", report)
                break
            except OSError:
                continue
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        data = json.loads(report.read_text())
        self.assertTrue(data["interrupted"])
        self.assertEqual(data["outputs"][0]["finish_reason"], "interrupted")

    # synth

    SHAPE = ("--layers", 8, "--hidden", 1024, "--intermediate", 4096, "--heads", 8, "--vocab", 4096)

    def test_stopped_synth_leaves_nothing(self):
        process = self.until_progress(rb"writing", "synth", self.root / "a" / "b", *self.SHAPE)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(self.root.iterdir()), [])

    def test_synth_goes_on_after_a_kill(self):
        model = self.root / "m"
        process = self.until_progress(rb"writing", "synth", model, *self.SHAPE, "--shards", 2)
        process.kill()
        process.communicate(timeout=60)
        left = {p.name for p in model.iterdir()}
        self.assertIn(".spillway-synth", left)
        self.one_line(call("inspect", model), "neither model.safetensors nor")
        (model / "notes.txt").write_text("mine")
        self.one_line(call("synth", model, *self.SHAPE), "notes.txt")
        self.assertEqual({p.name for p in model.iterdir()}, left | {"notes.txt"})
        (model / "notes.txt").unlink()
        done = call("synth", model, "--like", "tiny")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({p.name for p in model.iterdir()},
                         {"config.json", "generation_config.json", "tokenizer.json",
                          "model.safetensors"})

    def test_synth_writes_a_file_beside_others(self):
        (self.root / "notes.txt").write_text("mine")
        for dtype, more in (("q4_k", ()), ("bf16", ("--shards", 3))):
            done = call("synth", self.root / f"{dtype}.gguf", "--like", "tiny", "--dtype", dtype, *more)
            self.assertEqual(done.returncode, 0, done.stderr)
        parts = {f"bf16-0000{part}-of-00003.gguf" for part in (1, 2, 3)}
        self.assertEqual({p.name for p in self.root.iterdir()}, {"notes.txt", "q4_k.gguf", *parts})
        self.unchanged("synth", self.root / "q4_k.gguf", "--like", "tiny", says="exists")
        self.unchanged("synth", self.root / "bf16.gguf", "--like", "tiny", "--shards", 3,
                       says="bf16-00001-of-00003.gguf: exists")
        for arguments, says in ((("--dtype", "q4_k", "--format", "safetensors"), "only GGUF"),
                                (("--dtype", "q9"), "no such type"),
                                (("--format", "safetensors"), "ends in .gguf")):
            self.unchanged("synth", self.root / "x.gguf", "--like", "tiny", *arguments, says=says)

    def test_stopped_or_killed_synth_of_a_file_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGKILL):
            process = self.until_progress(rb"writing", "synth", self.root / "m.gguf", *self.SHAPE)
            process.send_signal(number)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130 if number == signal.SIGINT else -number)
            if number == signal.SIGKILL:  # where the file system makes no files without names
                (self.root / "m.gguf.partial").unlink(missing_ok=True)
            self.assertEqual(list(self.root.iterdir()), [])

    # quantize

    def test_quantize(self):
        target = self.root / "q.gguf"
        done = call("quantize", self.models / "tiny", target, "--type", "q4_k_m", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertTrue(result["tokenizer"])
        self.assertEqual(result["bytes"], target.stat().st_size)
        by_name = {tensor["name"]: tensor for tensor in result["tensors"]}
        self.assertEqual(by_name["output.weight"]["to"], "Q6_K")
        self.assertEqual(by_name["token_embd.weight"]["to"], "Q4_K")
        self.assertEqual(by_name["output_norm.weight"]["to"], "F32")
        self.assertTrue(0.05 < by_name["token_embd.weight"]["error"] < 0.08)
        done = call("quantize", target, self.root / "again.gguf", "--type", "Q8_0", "--quiet")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.splitlines()), 1, done.stdout)
        (self.root / "link.gguf").symlink_to("nowhere")
        for name, arguments, says in (("q.gguf", (), "exists"), ("link.gguf", (), "exists"),
                                      ("x.bin", (), "is to end in .gguf"),
                                      ("x.gguf", ("--type", "mxfp4"), "can be read but not made"),
                                      ("x.gguf", ("--type", "q9"), "no such type"),
                                      ("x.gguf", ("--ram", "1MiB"), "are needed"),
                                      ("no/x.gguf", (), "No such file or directory")):
            arguments = arguments if "--type" in arguments else ("--type", "q8_0", *arguments)
            self.unchanged("quantize", self.models / "tiny", self.root / name, *arguments, says=says)
        self.unchanged("quantize", self.root / "none", self.root / "x.gguf", "--type", "q8_0",
                       says="none")

    def test_quantize_on_a_full_disk(self):
        if os.getuid() != 0:
            self.skipTest("mounting a small file system needs root")
        mount = self.root / "small"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", mount]).returncode:
            self.skipTest("no tmpfs can be mounted here")
        try:
            arguments = ("quantize", self.models / "wide", mount / "m.gguf", "--type", "q8_0")
            self.one_line(call(*arguments), "are needed but", "free")
            self.assertEqual(list(mount.iterdir()), [])
            subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)

            def small_files_only():  # the kernel fails larger ones as a full disk would
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

            self.one_line(call(*arguments, preexec_fn=small_files_only), "File too large")
            self.assertEqual(list(mount.iterdir()), [])
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_stopped_or_killed_quantize_leaves_nothing(self):
        model = self.model("wide")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            process = self.until_progress(rb"quantizing", "quantize", model, self.root / "q.gguf",
                                          "--type", "q4_k", "--ram", "32MiB", "--threads", 1)
            process.send_signal(number)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, -number if number == signal.SIGKILL else 130)
            if number == signal.SIGKILL:  # where the file system makes no files without names
                (self.root / "q.gguf.partial").unlink(missing_ok=True)
            self.assertEqual([p.name for p in self.root.iterdir()], ["model"])

    # bench

    def bench(self, *arguments):
        return ("bench", self.config(), "--shares", 100, "--batches", 1, "--memory-points", 1,
                "--tokens", 1, "--prompt-tokens", 4, "--out", self.root / "out", *arguments)

    @staticmethod
    def children(pid):
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    @staticmethod
    def groups(pid):
        """Control groups that the bench of this process made and that are still there."""
        found = []
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = pathlib.Path("/sys/fs/cgroup") / ("memory" if controllers else "")
            for name in (f"spillway-bench-{pid}", f"spillway-bench-self-{pid}"):
                group = root / path.lstrip("/") / name
                if group.is_dir():
                    found.append(group)
        return set(found)

    def test_stopped_bench_keeps_finished_rounds(self):
        results = self.root / "out" / "bench.json"
        process = self.until_progress(rb"round 2 of", *self.bench("--repeats", 50))
        data = json.loads(results.read_text())
        self.assertTrue(all(len(arm["seconds_per_pass"]["values"]) >= 1 for arm in data["arms"]
                            if "skipped" not in arm))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertTrue(json.loads(results.read_text())["interrupted"])
        self.assertEqual(self.groups(process.pid), set())

    def test_killed_bench_takes_its_child_along(self):
        process = self.until_progress(rb"round 1 of", *self.bench("--repeats", 50))
        while not (children := self.children(process.pid)):
            self.assertIsNone(process.poll())
        process.kill()
        process.wait()
        try:
            child = os.pidfd_open(int(children[0]))
            self.assertTrue(select.select([child], [], [], 30)[0], "the child lives on")
            os.close(child)
        except ProcessLookupError:
            pass  # gone already
        for group in self.groups(process.pid):
            group.rmdir()

    def test_second_bench_keeps_the_first_until_it_has_something(self):
        results = self.root / "out" / "bench.json"
        one = ("--repeats", 1, "--quiet", "--sweeps")
        self.assertEqual(call(*self.bench(*one, "decode")).returncode, 0)
        first = results.read_bytes()
        done = call(*self.bench(*one, "memory", "--budgets", "1MiB"))
        self.one_line(done, "no arm could run")
        self.assertIn("keeps its earlier results", done.stdout)
        self.assertEqual(results.read_bytes(), first)
        self.assertEqual(call(*self.bench(*one, "prompt")).returncode, 0)
        self.assertEqual(json.loads(results.read_text())["arms"][0]["sweep"], "prompt")

    def test_a_bench_that_cannot_be_kept_says_so(self):
        arguments = [SPILLWAY, *map(str, self.bench("--repeats", 1, "--quiet", "--sweeps", "decode",
                                                    "--shares", 100, "--batches", 1))]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)))
        self.assertEqual(done.returncode, 1)
        self.assertIn("not all results could be written", done.stdout)
        self.assertNotIn("earlier results", done.stdout)


if __name__ == "__main__":
    SPILLWAY = sys.argv.pop(1)
    unittest.main()
