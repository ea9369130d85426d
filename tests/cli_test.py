#!/usr/bin/env python3
"""The program as a user meets it: every command, exit codes, one line per mistake, reports, signals,
memory promises. Usage: cli_test.py SPILLWAY_BINARY [unittest arguments]"""
import contextlib
import ctypes
import errno
import fcntl
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree

SPILLWAY = ""
MIB = 1024 * 1024


def call(*arguments, **options):
    arguments = [a if isinstance(a, bytes) else str(a) for a in arguments]
    return subprocess.run([SPILLWAY, *arguments], capture_output=True, text=True,
                          errors="replace", timeout=300, **options)


def deny_call(number, error):
    """From now on the system call fails with `error` in this process and its children."""
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error),
             (0x06, 0, 0, 0x7fff0000))  # load, compare, refuse, allow
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(Program(len(steps), code)), 0, 0):  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "seccomp")


USERS = itertools.count(16 * os.getpid())


class Cli(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-cli-"))
        os.environ["XDG_CACHE_HOME"] = str(cls.root / "cache")  # profiles of these tests alone
        cls.model = cls.root / "model"
        done = call("synth", cls.model, "--like", "tiny", "--shards", "2")
        assert done.returncode == 0, done.stderr
        cls.wide = cls.root / "wide"  # larger than the budgets of these tests
        done = call("synth", cls.wide, "--layers", 8, "--hidden", 1024, "--intermediate", 4096,
                    "--heads", 16, "--vocab", 8192)
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def config(self, model=None, **sections):
        values = {"model": {"path": str(model or self.model)}, "device": "host",
                  "memory": {"ram": "256MiB"},
                  "generate": {"prompts": ["Hello"], "max_new_tokens": 4, "ignore_eos": True}}
        for name, section in sections.items():
            if isinstance(section, dict):
                values.setdefault(name, {}).update(section)
            else:
                values[name] = section
        path = self.root / f"{self.id()}.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    def fails(self, *arguments, says, code=1, **options):
        done = call(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        if code == 1:
            errors = [l for l in done.stderr.splitlines() if not l.startswith(("note:", "plan: "))]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertTrue(errors[0].startswith("spillway: "), done.stderr)
        for text in says if isinstance(says, tuple) else (says,):
            self.assertIn(text, done.stderr)

    # What works

    def test_run_reports_what_it_did(self):
        report = self.root / "report.json"
        trace = self.root / "trace.json"
        done = call("run", self.config(), "--prompt", "One", "--prompt", "Two words", "--report",
                    report, "--trace", trace, "--set", "placement.policy=nvme")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("decode", done.stdout)
        data = json.loads(report.read_text())
        self.assertEqual([o["prompt"] for o in data["outputs"]], ["One", "Two words"])
        for output in data["outputs"]:
            self.assertEqual(len(output["output_token_ids"]), 4)
            self.assertEqual(output["finish_reason"], "length")
            self.assertEqual(output["prompt_token_ids"][0], 256)
        self.assertEqual(data["passes"][0]["kind"], "prefill")
        self.assertEqual(set(data["passes"][1]), {"kind", "tokens", "seconds", "nvme_bytes",
                                                  "copied_bytes", "stall_seconds"})
        self.assertEqual({p["tier"] for p in data["placement"]}, {"nvme"})
        for key in ("ram_budget_bytes", "ram_planned_bytes", "peak_rss_bytes", "gpu_budget_bytes",
                    "gpu_planned_bytes", "huge_pages"):
            self.assertIn(key, data["memory"])
        self.assertIn(data["io"]["engine"], ("io_uring", "pread"))
        events = json.loads(trace.read_text())["traceEvents"]
        names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
        self.assertEqual(names, {"reads", "copies", "compute", "stalls", "passes"})
        self.assertTrue(any(e["name"].startswith("read unit") for e in events))

    def test_a_text_that_is_fed_again_is_announced(self):
        model, report = self.root / "longrope", self.root / "again.json"
        done = call("synth", model, "--like", "phi-4-mini", "--layers", 1, "--hidden", 256,
                    "--intermediate", 256, "--heads", 8, "--vocab", 512)
        self.assertEqual(done.returncode, 0, done.stderr)
        file = model / "config.json"
        config = json.loads(file.read_text())
        config.update(original_max_position_embeddings=16, rope_scaling={
            "type": "longrope", "short_factor": [1.0] * 12, "long_factor": [2.0] * 12})
        file.write_text(json.dumps(config))
        says = "longer than 16 tokens, all of them are fed to the model again"
        for new, again in ((11, 0), (12, 17)):  # "Hello" is six tokens, and the last is not fed
            done = call("run", self.config(model), "-n", new, "--report", report)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(says in done.stderr, again > 0, done.stderr)
            data = json.loads(report.read_text())
            self.assertEqual(any(says in note for note in data["notes"]), again > 0)
            self.assertEqual(sum(p["tokens"] for p in data["passes"] if p["kind"] == "prefill"),
                             6 + again)
            self.assertEqual(len(data["outputs"][0]["output_token_ids"]), new)

    def test_quiet_prints_the_text_only(self):
        done = call("run", self.config(), "--quiet")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.splitlines()), 1)

    def test_spilled_sweep(self):
        ids = self.root / "many_ids.json"
        ids.write_text(json.dumps([[(i * 7 + t) % 900 for i in range(40)] for t in range(9)]))
        folder = self.root / "states"
        folder.mkdir()
        sweep = ("--set", "score.chunk=40", "--set", "score.sweep=360", "--json")
        plain = json.loads(call("score", self.config(), "--token-ids-file", ids, *sweep).stdout)
        done = call("score", self.config(), "--token-ids-file", ids, *sweep, "--set",
                    "score.spill=always", "--set", f"score.spill_dir={folder}")
        report = json.loads(done.stdout)
        self.assertEqual(report["logprobs"], plain["logprobs"])
        self.assertNotIn("spill", plain)
        self.assertNotIn("spill_wait_seconds", plain["passes"][0])
        written = report["spill"]["written_bytes"]
        self.assertEqual(report["spill"]["folder"], str(folder))
        self.assertEqual(report["spill"]["written_bytes_per_sweep"], written)
        self.assertEqual(sum(p["spill_written_bytes"] for p in report["passes"]), written)
        self.assertEqual(sum(p["spill_read_bytes"] for p in report["passes"]), written)
        self.assertGreater(written, report["spill"]["file_bytes"])
        self.assertRegex(done.stderr, r"note: hidden states: .* spilled per sweep and read again, "
                         rf".* written to {re.escape(str(folder))} \(\w+\) in all, where they take ")
        self.assertEqual(list(folder.iterdir()), [])
        self.fails("score", self.config(), "--token-ids-file", ids, *sweep, "--set",
                   "score.spill=always", "--set", "score.spill_dir=/nowhere/x",
                   says="cannot make a file for hidden states in /nowhere/x")
        kind = subprocess.run(["stat", "-f", "-c", "%T", "/dev/shm"], capture_output=True, text=True)
        if kind.stdout.strip() == "tmpfs":
            done = call("score", self.config(), "--token-ids-file", ids, *sweep, "--set",
                        "score.spill=always", env={**os.environ, "TMPDIR": "/dev/shm"})
            self.assertIn("note: /dev/shm is a tmpfs: hidden states take", done.stderr)

    def test_score(self):
        ids = self.root / "ids.json"
        ids.write_text("[[1,2,3,4,5],[6,7]]")
        report = self.root / "score.json"
        done = call("score", self.config(), "--token-ids-file", ids, "--report", report)
        self.assertEqual(done.returncode, 0, done.stderr)
        data = json.loads(report.read_text())
        self.assertEqual(data["tokens"], 5)
        self.assertEqual([len(l) for l in data["logprobs"]], [4, 1])
        for option in ("--text-file", "--token-ids-file"):
            self.fails("score", self.config(), option, self.root, says="is a folder; expected")
        text = self.root / "text.txt"
        text.write_text("Some text to score.")
        done = call("score", self.config(), "--text-file", text)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("perplexity", done.stdout)

    def test_plan(self):
        done = call("plan", self.config(self.wide, memory={"ram": "96MiB"}), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        data = json.loads(done.stdout)
        self.assertEqual(sum(l["bytes"] for l in data["memory"]["bill"]),
                         data["memory"]["ram_planned_bytes"])
        self.assertLessEqual(data["memory"]["ram_planned_bytes"], 96 * MIB)
        self.assertGreater(data["nvme_bytes_per_pass"], 0)
        self.assertIn("each pass reads", call("plan", self.config()).stdout)

    def test_inspect_and_verify(self):
        done = call("inspect", self.model, "--json", "--verify")
        data = json.loads(done.stdout)
        self.assertTrue(data["supported"])
        first = {t["name"]: t["xxh3"] for t in data["tensors"]}
        again = json.loads(call("inspect", self.model, "--json", "--verify").stdout)
        self.assertEqual(first, {t["name"]: t["xxh3"] for t in again["tensors"]})
        self.assertIn("LlamaForCausalLM", call("inspect", self.model).stdout)

    def test_tokenize(self):
        done = call("tokenize", self.model, "--text", "héllo")
        ids = json.loads(done.stdout)
        self.assertEqual(ids, list("héllo".encode()))
        done = call("tokenize", self.model, "--text", json.dumps(ids), "--decode")
        self.assertEqual(done.stdout, "héllo\n")
        self.assertEqual(json.loads(call("tokenize", self.model, "--text", "").stdout), [])
        for torn in (" [1,2", "[1,,2]", "[", "[[1]]", '["a"]'):
            self.fails("tokenize", self.model, "--text", torn, "--decode", says="expected a JSON list")
        for text in ("[INST] hi [/INST]", "[1] see note", "{1", "[a", "[1][2]", "[0-9]+"):
            self.assertEqual(call("tokenize", self.model, "--text", text, "--decode").stdout, text + "\n")
        piped = subprocess.run([SPILLWAY, "tokenize", self.model, "--text-file", "-"], input="hé",
                               capture_output=True, text=True)
        self.assertEqual(json.loads(piped.stdout), list("hé".encode()))

    def test_tokenize_lines(self):
        texts = ["héllo", "", "two\nlines \u2028 \0 😀", '"quoted"']
        file = self.root / "texts.jsonl"
        file.write_text("".join(json.dumps(t) + "\n" for t in texts).rstrip("\n"))
        done = call("tokenize", self.model, "--text-file", file, "--lines")
        self.assertEqual(done.returncode, 0, done.stderr)
        ids = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(ids, [list(t.encode()) for t in texts])
        file.write_text(done.stdout)
        done = call("tokenize", self.model, "--text-file", file, "--lines", "--decode")
        self.assertEqual([json.loads(line) for line in done.stdout.splitlines()], texts)
        for line, flags, says in (("[1]", (), "expected a JSON string"), ("", (), "JSON string"),
                                  ('"\\ud800"', (), "JSON string"), ('"a"', ("--decode",), "ids"),
                                  ("[-1]", ("--decode",), "ids"), ("[70000]", ("--decode",), "70000")):
            file.write_text((("[1]" if flags else '"a"') + "\n") + line + "\n")
            self.fails("tokenize", self.model, "--text-file", file, "--lines", *flags,
                       says=("texts.jsonl:2", says))
        self.fails("tokenize", self.model, "--text-file", self.root, "--lines", says="is a folder")
        self.fails("tokenize", self.model, "--text-file", self.root, says="is a folder")
        self.assertEqual(call("tokenize", self.model, "--text", "a", "--lines").returncode, 2)

    def test_token_ids_need_no_tokenizer(self):
        bare = self.root / "bare"
        shutil.copytree(self.model, bare)
        (bare / "tokenizer.json").unlink()
        path = self.config(bare, generate={"prompts": [], "prompt_token_ids": [5, 6]})
        self.assertEqual(call("run", path).returncode, 0)
        self.fails("run", self.config(bare), says=("no tokenizer.json", "prompt_token_ids"))

    # Memory and signals

    def test_peak_memory_stays_under_the_budget(self):
        for budget in (64, 128):
            report = self.root / f"rss{budget}.json"
            done = call("run", self.config(self.wide, memory={"ram": f"{budget}MiB"}), "--report",
                        report)
            self.assertEqual(done.returncode, 0, done.stderr)
            memory = json.loads(report.read_text())["memory"]
            self.assertLessEqual(memory["ram_planned_bytes"], budget * MIB)
            self.assertLessEqual(memory["peak_rss_bytes"], (budget + 96) * MIB)

    @contextlib.contextmanager
    def group(self, controller, **limits):
        """A control group with limits by their names in version 2; yields what makes a child join,
        and the file of the (last) limit."""
        v1 = {"memory_max": "memory.limit_in_bytes"}
        mount = pathlib.Path("/sys/fs/cgroup")
        old = (mount / controller).is_dir()
        group = (mount / controller if old else mount) / f"spillway-cli-test-{os.getpid()}"
        try:
            group.mkdir(exist_ok=True)
            for key, value in limits.items():
                file = group / (v1.get(key) if old and key in v1 else key.replace("_", "."))
                file.write_text(str(value))
        except OSError as error:
            with contextlib.suppress(OSError):
                group.rmdir()
            self.skipTest(f"no {controller} control group can be made here: {error}")
        try:
            yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())), str(file)
        finally:
            group.rmdir()

    def test_runs_inside_a_memory_cgroup(self):
        with self.group("memory", memory_max=(64 + 96) * MIB) as (join, _):
            done = call("run", self.config(self.wide, memory={"ram": "64MiB"}), preexec_fn=join)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_auto_takes_what_a_small_cgroup_has(self):
        report = self.root / "group.json"
        config = self.config(self.wide, memory={"ram": "auto"})
        with self.group("memory", memory_max=160 * MIB) as (join, _):
            done = call("run", config, "--report", report, preexec_fn=join)
            self.assertEqual(done.returncode, 0, done.stderr)
            budget = json.loads(report.read_text())["memory"]["ram_budget_bytes"]
            self.assertGreater(budget, 80 * MIB)
            self.assertLess(budget, 130 * MIB)
        with self.group("memory", memory_max=24 * MIB) as (join, file):
            self.fails("plan", config, says=("memory.ram: auto of", file, "at least"),
                       preexec_fn=join)

    def test_a_budget_beyond_what_there_is(self):
        config = self.config(memory={"ram": "900TiB"})
        self.fails("run", config, says=("memory.ram of", "that this machine has", "available now"))
        done = call("plan", config)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, "note: memory.ram of .*; run and score refuse it here")
        with self.group("memory", memory_max=200 * MIB) as (join, file):
            self.fails("run", self.config(memory={"ram": "201MiB"}), preexec_fn=join,
                       says=("201 MiB is more than the 200 MiB that", file))

    def test_the_trace_is_a_line_of_the_bill(self):
        def bill(*arguments):
            done = call("plan", self.config(self.wide, memory={"ram": "64MiB"}), "--json", *arguments)
            memory = json.loads(done.stdout)["memory"]
            self.assertLessEqual(memory["ram_planned_bytes"], 64 * MIB)
            return {line["name"]: line["bytes"] for line in memory["bill"]}

        self.assertNotIn("trace", bill())
        traced = bill("--set", f"trace={self.root}/bill-trace.json")
        self.assertEqual(traced["trace"], 8 * MIB)
        self.assertLess(traced["resident layers"], bill()["resident layers"])

    def as_another_user(self, **limits):
        """For a child: a user without any other process, under limits. Skips where that cannot be.

        Another one each time: what the kernel has yet to end of a child before (workers of its
        io_uring) counts as its user's."""
        if os.getuid() != 0:
            self.skipTest("becoming another user needs root")
        self.root.chmod(0o755)
        user = 60000 + next(USERS) % 5000

        def become():
            for name, value in limits.items():
                resource.setrlimit(getattr(resource, name), (value, value))
            os.setgroups([])
            os.setuid(user)
        try:
            done = subprocess.run([SPILLWAY, "--version"], capture_output=True,
                                  preexec_fn=lambda: (os.setgroups([]), os.setuid(user)))
        except (PermissionError, subprocess.SubprocessError):
            self.skipTest("the program lies where another user cannot run it")
        if done.returncode != 0:
            self.skipTest("another user cannot run the program")
        return become

    def expect_run_or_reason(self, expected, reason, *arguments, **options):
        """A run under a limit gives the same text, or one line that names the limit. True if it ran."""
        done = call("run", *arguments, "--quiet", **options)
        if done.returncode == 0:
            self.assertEqual(done.stdout, expected)
            return True
        self.assertEqual(done.returncode, 1, done.stderr)
        errors = [l for l in done.stderr.splitlines() if l.startswith("spillway: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertIn(reason, errors[0])
        return False

    def test_few_threads(self):
        for engine in ("auto", "pread"):
            config = self.config(io={"engine": engine}, compute={"threads": 4},
                                 placement={"policy": "nvme"})
            config.chmod(0o644)
            expected = call("run", config, "--quiet").stdout
            ran = [self.expect_run_or_reason(
                       expected, "ulimit -u", config,
                       preexec_fn=self.as_another_user(RLIMIT_NPROC=threads))
                   for threads in (1, 2, 3, 4, 5, 6, 8, 64)]
            self.assertFalse(ran[0], "one thread cannot do it")
            self.assertTrue(ran[-1])
            self.assertEqual(ran, sorted(ran))
        few = call("run", config, preexec_fn=self.as_another_user(RLIMIT_NPROC=5))
        self.assertRegex(few.stderr, "note: computing with [1-3] threads? instead of 4: .*ulimit -u")
        with self.group("pids", pids_max=1) as (join, file):
            self.expect_run_or_reason(expected, f"{file} is 1", config, preexec_fn=join)

    def test_quantize_with_few_threads(self):
        target = self.root / "few"
        target.mkdir()
        target.chmod(0o777)
        made = target / "few.gguf"

        def quantize(threads, **limits):
            made.unlink(missing_ok=True)
            return call("quantize", self.model, made, "--type", "q8_0", "--threads", threads,
                        preexec_fn=self.as_another_user(**limits) if limits else None)

        self.assertEqual(quantize(1).returncode, 0)
        expected = made.read_bytes()
        ran = []
        for most in (1, 2, 3, 4, 6, 8, 200):
            done = quantize(64, RLIMIT_NPROC=most)
            ran.append(done.returncode == 0)
            if ran[-1]:
                self.assertEqual(made.read_bytes(), expected)
                if most < 64:
                    self.assertRegex(done.stderr, "note: computing with [1-7] threads? instead of 64: "
                                                  ".*ulimit -u")
                continue
            self.assertEqual(done.returncode, 1, done.stderr)
            errors = [l for l in done.stderr.splitlines() if l.startswith("spillway: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn("ulimit -u", errors[0])
            self.assertEqual(list(target.iterdir()), [])
        self.assertFalse(ran[0], "one thread cannot do it")
        self.assertTrue(ran[-2])
        self.assertEqual(ran, sorted(ran))
        self.assertEqual(quantize(1025).returncode, 2)

    def test_little_address_space(self):
        config = self.config(placement={"policy": "nvme"})
        expected = call("run", config, "--quiet").stdout
        ran = []
        for mib in (60, 80, 90, 110, 150, 8000):
            def limit(most=mib * MIB):
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            if call("--version", preexec_fn=limit).returncode != 0:
                continue  # not even its libraries can be loaded
            ran.append(self.expect_run_or_reason(expected, "ulimit -v", config, preexec_fn=limit))
        self.assertTrue(ran[-1])

    def test_many_threads_in_little_address_space(self):
        """TBB's threads start each other: one that is refused later would end the program."""
        made = self.root / "many.gguf"
        expected = call("run", self.config(), "--quiet").stdout
        for threads in (24, 64):
            config = self.config(compute={"threads": threads})
            for mib in (250, 400, 600, 1000):
                def limit(most=mib * MIB):
                    resource.setrlimit(resource.RLIMIT_AS, (most, most))
                self.expect_run_or_reason(expected, "ulimit -v", config, preexec_fn=limit)
                done = call("quantize", self.model, made, "--type", "q8_0", "--threads", threads,
                            "--quiet", preexec_fn=limit)
                if done.returncode != 0:
                    self.assertEqual(done.returncode, 1, done.stderr)
                    errors = [l for l in done.stderr.splitlines() if not l.startswith("note: ")]
                    self.assertEqual(len(errors), 1, done.stderr)
                    self.assertIn("ulimit -v", errors[0])
                    self.assertNotIn("memory.ram", errors[0])
                self.assertEqual(made.exists(), done.returncode == 0)
                made.unlink(missing_ok=True)

    def test_ctrl_c_stops_cleanly_and_still_reports(self):
        report = self.root / "stopped.json"
        path = self.config(self.wide, memory={"ram": "96MiB"},
                           generate={"max_new_tokens": 400})
        trace = self.root / "stopped-trace.json"
        process = subprocess.Popen([SPILLWAY, "run", path, "--report", report, "--trace", trace],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        weights = sum(file.stat().st_size for file in self.wide.glob("*.safetensors"))
        while (self.read_bytes(process.pid) < 2 * weights and process.poll() is None
               and time.monotonic() < deadline):
            time.sleep(0.01)  # more than loading reads: passes have begun
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        data = json.loads(report.read_text())
        self.assertTrue(data["interrupted"])
        self.assertEqual(data["outputs"][0]["finish_reason"], "interrupted")
        self.assertFalse(list(self.root.glob("*.partial")))

    @staticmethod
    def read_bytes(pid):
        try:
            counts = pathlib.Path(f"/proc/{pid}/io").read_text()
            return int(counts.split("\nread_bytes: ")[1].split()[0])
        except OSError:
            return 0

    # A system that refuses

    def test_reads_where_io_uring_is_filtered(self):
        """A filter of system calls, as in a container: noticed, and the same text all the same."""
        free = call("run", self.config(), "--quiet", "--set", "placement.policy=nvme")
        self.assertEqual(free.returncode, 0, free.stderr)
        on_drive = subprocess.run(["stat", "-f", "-c", "%T", str(self.root)], capture_output=True,
                                  text=True).stdout.strip() in ("ext2/ext3", "xfs", "btrfs")
        for number in (425, 426, 427):  # setup, enter, register
            # One probe is enough: it takes gigabytes of memory in hand.
            for command in ("run", "probe") if number == 426 and on_drive else ("run",):
                report = self.root / f"filtered-{command}.json"
                arguments = (("run", self.config(), "--quiet", "--report", report, "--set",
                              "placement.policy=nvme") if command == "run" else
                             ("probe", "--path", self.big_file(), "--seconds", "0.01", "--json",
                              "--device", "host", "--out", report))
                done = call(*arguments, preexec_fn=lambda: deny_call(number, errno.EPERM))
                self.assertEqual(done.returncode, 0, (command, number, done.stderr))
                data = json.loads(report.read_text())
                told = "".join(data["notes"]) if command == "run" else done.stderr  # run is quiet
                self.assertIn("reading with pread threads instead", told)
                if command == "run":
                    self.assertEqual(done.stdout, free.stdout)
                    self.assertEqual(data["io"]["engine"], "pread")
                else:
                    self.assertEqual(data["drive"]["engine"], "pread")
                    self.assertGreater(data["drive"]["reads"][0]["bytes_per_second"], 0)
            self.fails("run", self.config(io={"engine": "io_uring"}), says="seccomp profile",
                       preexec_fn=lambda: deny_call(number, errno.EPERM))

    def big_file(self):
        path = self.root / "read-me"
        if not path.exists():
            with open(path, "wb") as file:
                file.truncate(64 * MIB)
        return path

    # Mistakes

    def test_what_is_no_file_is_refused_and_not_waited_for(self):
        for name in ("config.json", "tokenizer.json", "model.safetensors.index.json",
                     "model-00001-of-00002.safetensors"):
            for kind in ("pipe", "device"):
                folder = self.root / f"{kind}-{name}"
                shutil.copytree(self.model, folder)
                (folder / name).unlink()
                if kind == "pipe":
                    os.mkfifo(folder / name)
                else:
                    (folder / name).symlink_to("/dev/zero")
                self.fails("run", self.config(folder), says=name)
                shutil.rmtree(folder)

    def test_streams_are_read_but_not_without_end(self):
        pipe = self.root / "config-pipe"
        os.mkfifo(pipe)
        text = self.config().read_text()
        writer = threading.Thread(target=lambda: pipe.write_text(text))
        writer.start()
        done = call("run", pipe, "--quiet")
        writer.join()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.fails("run", "/dev/zero", says="more than 64.0 MiB")
        self.fails("plan", self.config(), "--profile", "/dev/zero", says="is a device")
        self.fails("tokenize", self.model, "--text-file", "/dev/zero", says="more than 256 MiB")
        self.fails("score", self.config(), "--text-file", "/dev/zero", says="more than 256 MiB")
        self.fails("trace", "/dev/zero", says="is a device")

    def test_seconds_that_are_no_time(self):
        for seconds in ("nan", "inf", "-1", "-nan", "0", "1e9", "NAN", "infinity"):
            done = call("probe", "--path", self.big_file(), f"--seconds={seconds}")
            self.assertEqual(done.returncode, 2, (seconds, done.stderr))

    def test_wrong_usage_is_exit_2(self):
        for arguments in ((), ("fly",), ("run",), ("run", "x.yaml", "--no-such"),
                          ("score", "x.yaml", "--text-file", "a", "--data", "b"),
                          ("tokenize", self.model),
                          ("synth", self.root / "q", "--layers", "zero")):
            self.assertEqual(call(*arguments).returncode, 2, arguments)
        self.assertEqual(call("--help").returncode, 0)
        self.assertEqual(call("run", "--help").returncode, 0)

    def test_words_that_people_try(self):
        version = call("--version").stdout
        self.assertRegex(version, r"^\d+\.\d+")
        for words in (["version"], ["-V"]):
            done = call(*words)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, version, ""))
        self.assertEqual(call("help").stdout, call("--help").stdout)
        self.assertEqual(call("help", "run").stdout, call("run", "--help").stdout)
        self.assertEqual(call("help", "run").returncode, 0)
        for words in (["help", "help"], ["help", "version"], ["version", "--help"]):
            self.assertEqual(call(*words).returncode, 0, words)
        self.fails("version", "extra", code=2, says='unexpected "extra" behind version')
        self.fails("help", "run", "extra", code=2, says='unexpected "extra" behind help')
        self.fails("run", self.model, "-p", "The", "capital", "of", code=2,
                   says=('unexpected "capital"', "needs quotes"))
        for words, says in ((["rnu"], 'unknown command "rnu"; did you mean run?'),
                            (["fly"], 'unknown command "fly"; spillway --help lists'),
                            (["help", "scroe"], "did you mean score?"),
                            (["chat"], "spillway run answers prompts"),
                            (["x.yaml"], "to run it: spillway run x.yaml"),
                            (["--verison"], "did you mean --version?"),
                            (["\x1b[31m\u202e"], 'unknown command "\\x1b[31m\\u202e"'),
                            (["run", "x", "--promt", "a"], 'unknown option "--promt"; did you mean --prompt?'),
                            (["run"], "MODEL is missing"), ([], "no command was given"),
                            (["run", "x", "--report"], "its value is missing: --report FILE"),
                            (["synth", "x", "--seed", "1.5"], "expected a number, got"),
                            (["probe", "--seconds", "0"], "expected a number from 0.01 to 600"),
                            (["bench", "x", "--sweeps", "speed"],
                             'expected memory, decode, prompt or score, got "speed"'),
                            (["tokenize", "m", "--text", "a", "--lines"], "--lines needs --text-file")):
            self.fails(*words, code=2, says=says)

    def test_links_of_the_hub_that_dangle(self):
        cache = self.root / "hub" / "models--Qwen--Qwen2.5-7B"
        snapshot = cache / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("0123")
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        fetch = f"hf download Qwen/Qwen2.5-7B --cache-dir {self.root.resolve() / 'hub'}"
        self.fails("inspect", snapshot, says=("model.safetensors: a link that dangles", fetch))
        self.fails("tokenize", snapshot, "--text", "a", says=("tokenizer.json: a link that", fetch))
        (snapshot / "model.safetensors").unlink()
        (snapshot / "model.safetensors").symlink_to(self.model / "model-00001-of-00002.safetensors")
        self.fails("run", self.config(snapshot), says=("config.json: a link that dangles", fetch))

    def test_names_may_hold_anything(self):
        """What a checkpoint is called and what it holds is shown escaped, cut and aligned."""
        folder = os.fsencode(self.root) + b"/caf\xe9\x1b[31m\n\xe2\x80\xaex"
        os.mkdir(folder)
        names = ["a\x1b[2J\n\u202eb", "\u8a9e" * 10, "n" * 5000, "plain"]
        header = json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
                             for i, n in enumerate(names)}).encode()
        with open(folder + b"/model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + bytes(4 * len(names)))
        shown = call("inspect", folder)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        for text in (shown.stdout, shown.stderr):
            self.assertNotRegex(text, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ufffd]")
        self.assertIn("a\\x1b[2J\\n\\u202eb", shown.stdout)
        self.assertIn("n\u2026n", shown.stdout)
        rows = [line for line in shown.stdout.splitlines() if " F32 " in line]
        columns = {sum(1 + (c == "\u8a9e") for c in row[:row.index(" F32 ")]) for row in rows}
        self.assertEqual(len(rows), 4)
        self.assertEqual(len(columns), 1, shown.stdout)
        self.assertLessEqual(max(map(len, rows)), 80)
        tensors = json.loads(call("inspect", folder, "--json").stdout)["tensors"]
        self.assertEqual({t["name"] for t in tensors}, set(names))
        self.fails("tokenize", folder, "--text", "a", says="caf\\xe9\\x1b[31m\\n\\u202ex")

    def test_home_in_paths(self):
        home = {**os.environ, "HOME": str(self.root)}
        for path in ("~/model", "$HOME/model", "${HOME}/model"):
            done = call("plan", self.config(), "--set", f"model.path={path}", env=home)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.fails("plan", self.config(), "--set", "model.path=~", env=home, says="write ~/ for")

    def test_bad_configuration(self):
        self.fails("run", self.root / "none.yaml", says="no such file or folder")
        self.fails("run", self.config(), "--set", "memory.ram=.nan", says=("memory.ram", "a size"))
        self.fails("run", self.config(), "--set", "memory.rom=1", says="did you mean memory.ram?")
        self.fails("run", self.config(memory={"ram": "2MiB"}), says=("at least", "memory.ram"))
        for size in ("1KiB", "0", "2PiB", "lots"):
            self.fails("run", self.config(), "--ram", size, code=2,
                       says=("--ram: expected a size from 1.00 MiB to 1.00 PiB", size))
        self.fails("run", self.config(), "--prompt", "", says="prompt 1 is empty")
        self.fails("run", "", "--prompt", "x", says="MODEL is empty")
        self.fails("run", self.config(), "--report", "", code=2, says="--report: the name is empty")
        self.fails("probe", "--out", "", code=2, says="--out: the name is empty")
        self.fails("run", self.config(), "--prompt", "x" * 3000, says="context is 1024")
        self.fails("run", self.config(generate={"prompts": [], "prompt_token_ids": [70000]}),
                   says="outside the vocabulary")
        self.fails("run", self.config(), "--prompt", b"\xff\xfe", says="not valid UTF-8")
        self.fails("run", self.config(device="cuda:7"), says="device cuda:7")

    def test_bad_model_folders(self):
        self.fails("run", self.config(self.root / "nowhere"), says="nowhere")
        self.fails("inspect", self.root / "nowhere", says="give a model's folder or .gguf file")
        empty = self.root / "empty"
        empty.mkdir()
        self.fails("run", self.config(empty), says=("neither model.safetensors", "nor a GGUF file"))

        def broken(name, change):
            folder = self.root / name
            shutil.copytree(self.model, folder)
            change(folder)
            return folder

        def cut(folder):
            shard = next(folder.glob("model-00002*"))
            os.truncate(shard, shard.stat().st_size // 2)

        self.fails("run", self.config(broken("cut", cut)), says="model-00002-of-00002")
        self.fails("run", self.config(broken(
            "lost", lambda f: next(f.glob("model-00002*")).unlink())), says="not there")
        self.fails("run", self.config(broken("arch", lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace("Llama", "Mamba")))),
            says=("MambaForCausalLM is not supported", "Qwen3ForCausalLM"))
        self.fails("run", self.config(broken(
            "tok", lambda f: (f / "tokenizer.json").write_text("{\"model\": 3"))),
            says="tokenizer.json")
        if os.getuid() != 0:
            self.fails("run", self.config(broken(
                "secret", lambda f: (f / "config.json").chmod(0))), says="Permission denied")

    # Models in GGUF

    def gguf(self, name, *more):
        """A model in a folder of this test."""
        path = self.root / self.id() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        done = call("synth", path, "--like", "tiny", "--dtype", "Q4_K", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def text_of(self, *arguments, **options):
        done = call(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_every_command_takes_a_gguf_file(self):
        first = self.gguf("split/parts.gguf", "--shards", 3).with_name("parts-00001-of-00003.gguf")
        whole = self.gguf("whole.gguf")
        alone = whole.parent / "alone"
        alone.mkdir()
        shutil.copy(whole, alone / "model.bin")  # what it is says its content
        text = self.root / "scored.txt"
        text.write_text("Some text to score.")
        answers, sums = set(), set()
        for model in (whole, first, first.parent, alone, alone / "model.bin"):
            with self.subTest(model=model):
                report = json.loads(self.text_of("run", model, "-p", "Hello", "-n", 3, "--ram", "64MiB",
                                                 "--json"))
                answers.add(tuple(report["outputs"][0]["output_token_ids"]))
                self.assertIn("Q4_K weights", self.text_of("plan", model, "--ram", "64MiB"))
                shown = self.text_of("inspect", model)
                self.assertRegex(shown, r"(?m)^blk\.0\.ffn_up\.weight +Q4_K ")
                self.assertRegex(shown.splitlines()[-1], r"tensors in \d file\(s\), .* F32, .* Q4_K")
                verified = json.loads(self.text_of("inspect", model, "--verify", "--json"))
                self.assertTrue(verified["supported"])
                self.assertEqual(sum(t["bytes"] for t in verified["tensors"]), verified["payload_bytes"])
                sums.add(tuple(sorted((t["name"], t["dtype"], t["xxh3"]) for t in verified["tensors"])))
                self.assertEqual(json.loads(self.text_of("tokenize", model, "--text", "Hi")), [72, 105])
                self.assertIn("perplexity", self.text_of("score", model, "--text-file", text))
                config = self.root / "of-gguf.yaml"
                config.write_text(self.text_of("init", model, "-o", "-"))
                self.text_of("run", config, "-n", 1)
        self.assertEqual((len(answers), len(sums)), (1, 1), "the same weights, however they lie")

    def test_gguf_in_yaml(self):
        model = self.gguf("whole.gguf")
        home = {**os.environ, "HOME": str(model.parent)}
        for path in ("whole.gguf", "~/whole.gguf", "$HOME/whole.gguf", str(model)):
            config = model.parent / "run.yaml"
            config.write_text(json.dumps({"model": {"path": path}, "generate": {
                "prompts": ["Hi"], "max_new_tokens": 1}}))
            self.text_of("run", config, env=home)
        for path in ("gone.gguf", "models/gone.gguf"):  # from the folder of the YAML on
            self.fails("run", self.config(), "--set", f"model.path={path}",
                       says=f"{self.root / path}: no such folder or file")
        self.fails("run", self.model / "model-00001-of-00002.safetensors", "-p", "x",
                   says=f"name the folder that it lies in, {self.model}")
        pointer = model.with_name("pointer.gguf")
        pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
        self.fails("run", pointer, "-p", "x", says="git lfs pull")
        config.write_text("device: host\n")
        self.fails("run", config, says=("model.path: missing", ".gguf"))

    def test_init_names_gguf_files_without_the_ending(self):
        parts = self.gguf("Big-Q4.gguf", "--shards", 2)
        small = self.gguf("Small.Q4_1.gguf")
        for model, name in ((parts.with_name("Big-Q4-00001-of-00002.gguf"), "Big-Q4.yaml"),
                            (small, "Small.Q4_1.yaml")):
            done = call("init", model, cwd=small.parent)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"spillway run {name}", done.stdout)
            self.assertTrue((small.parent / name).exists())

    def test_a_gguf_file_that_is_not_there_is_no_name_of_the_hub(self):
        for command in (("run", "models/gone.gguf", "-p", "x"), ("inspect", "models/gone.gguf"),
                        ("tokenize", "models/gone.gguf", "--text", "x"), ("init", "models/gone.gguf"),
                        ("run", "configs/gone.yaml", "-p", "x"), ("inspect", "gone.gguf")):
            done = call(*command)
            self.assertEqual(done.returncode, 1)
            self.assertIn("no such file or folder; give a model's folder or .gguf file", done.stderr)
            self.assertNotIn("hf download", done.stderr)
        hub = {**os.environ, "HF_HUB_CACHE": str(self.root / "no-hub")}
        self.fails("run", "acme/Tiny-GGUF", "-p", "x", env=hub,
                   says="hf download acme/Tiny-GGUF FILE.gguf")

    def test_a_gguf_file_without_tokenizer(self):
        model = self.gguf("whole.gguf")
        mute = model.with_name("mute.gguf")
        mute.write_bytes(model.read_bytes().replace(b"tokenizer.ggml.", b"xokenizer.ggml."))
        said = f"{mute}: the file's metadata hold no tokenizer"
        self.fails("run", mute, "-p", "x", says=(said, "prompt_token_ids"))
        self.fails("score", mute, "--text-file", mute, says=(said, "--token-ids-file"))
        self.fails("tokenize", mute, "--text", "x", says=said)
        config = self.root / "mute.yaml"
        config.write_text(self.text_of("init", mute, "-o", "-"))
        self.assertIn("prompt_token_ids: [[1, 2, 3]]", config.read_text())
        self.text_of("run", config, "-n", 1)

    def test_token_ids_go_without_a_tokenizer_that_is_refused(self):
        model = self.gguf("whole.gguf")
        odd = model.with_name("odd.gguf")
        odd.write_bytes(model.read_bytes().replace(b"gpt-2", b"gpt-9"))
        said = 'tokenizer.ggml.pre: how "gpt-9" splits text is not known'
        self.fails("run", odd, "-p", "x", says=(said, "; or give generate.prompt_token_ids"))
        self.fails("score", odd, "--text-file", odd, says=(said, "; or give --token-ids-file"))
        self.fails("tokenize", odd, "--text", "x", says=said)
        self.text_of("plan", odd)
        config = self.config(odd, generate={"prompts": [], "prompt_token_ids": [72, 105],
                                            "max_new_tokens": 3})
        report = self.root / "odd.json"
        done = call("run", config, "--report", report)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"note: {odd}: {said}", done.stderr)
        self.assertIn("; answers are token ids", done.stderr)
        output = json.loads(report.read_text())["outputs"][0]
        self.assertEqual(len(output["output_token_ids"]), 3)
        self.assertEqual(output["text"], "")
        self.assertIn("prompt_token_ids: [[1, 2, 3]]", self.text_of("init", odd, "-o", "-"))

    def test_tokens_are_those_of_the_file_that_runs(self):
        model = self.gguf("whole.gguf")
        folder = model.parent / "both"
        folder.mkdir()
        shutil.copy(model, folder / "m.gguf")
        broken = folder / "tokenizer.json"
        broken.write_text("{")  # of no use beside the file's own
        self.assertEqual(json.loads(self.text_of("tokenize", folder, "--text", "Hi")), [72, 105])
        self.text_of("run", folder, "-p", "Hi", "-n", 1)

    def test_gguf_in_the_hub_cache(self):
        hub = self.root / "gguf-hub"
        repository = hub / "models--acme--tiny-GGUF"
        snapshot = repository / "snapshots" / "0123abcd"
        for folder in (snapshot, repository / "blobs", repository / "refs"):
            folder.mkdir(parents=True)
        (repository / "refs/main").write_text("0123abcd")
        shutil.copy(self.gguf("whole.gguf"), repository / "blobs" / "hash")
        (snapshot / "tiny-Q4_K.gguf").symlink_to("../../blobs/hash")
        home = {**os.environ, "HF_HUB_CACHE": str(hub)}
        for name in ("acme/tiny-GGUF", repository, snapshot, snapshot / "tiny-Q4_K.gguf"):
            self.text_of("run", name, "-p", "x", "-n", 1, env=home)
            self.text_of("inspect", name, env=home)
            self.text_of("tokenize", name, "--text", "x", env=home)
        (snapshot / "tiny-Q8_0.gguf").symlink_to("../../blobs/gone")
        self.fails("run", "acme/tiny-GGUF", "-p", "x", env=home,
                   says=("holds 2 models in GGUF", "tiny-Q4_K.gguf, tiny-Q8_0.gguf"))
        self.fails("run", snapshot / "tiny-Q8_0.gguf", "-p", "x", env=home,
                   says="hf download acme/tiny-GGUF tiny-Q8_0.gguf --cache-dir")

    def test_bench_takes_a_gguf_file(self):
        out = self.root / "gguf-bench"
        self.text_of("bench", self.gguf("whole.gguf"), "--quiet", "--out", out, "--sweeps", "decode",
                     "--shares", 100, "--batches", 1, "--repeats", 1, "--tokens", 1)
        self.assertRegex((out / "bench.html").read_text(), r"LlamaForCausalLM, 4 layers, .{,9} of Q4_K weights")

    def test_synth_leaves_nothing_behind(self):
        target = self.root / "huge"
        self.fails("synth", target, "--like", "llama-3-70b", "--layers", 10000, "--dtype", "f32",
                   says=("are needed but", "free"))
        self.assertFalse(target.exists())
        self.fails("synth", self.model, "--like", "tiny", says="not empty")
        self.fails("synth", target, "--like", "gpt-5", says="no such preset")
        self.fails("synth", target, "--layers", 2, says="give --like")
        self.fails("synth", "/proc/nope", "--like", "tiny", says="/proc/nope")

    def test_full_disk_during_synth(self):
        if os.getuid() != 0:
            self.skipTest("mounting a small file system needs root")
        mount = self.root / "small"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "none", mount]).returncode:
            self.skipTest("no tmpfs can be mounted here")
        try:
            filler = mount / "filler"
            filler.write_bytes(b"x" * 4 * MIB)
            self.fails("synth", mount / "m", "--like", "tiny", "--dtype", "f32", says="free")
            self.assertEqual([filler], list(mount.iterdir()))
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_failing_writes_leave_nothing_behind(self):
        def small_files_only():  # the kernel fails larger ones with EFBIG, as a full disk would
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

        target = self.root / "cut-short"
        self.fails("synth", target, "--like", "tiny", says="File too large",
                   preexec_fn=small_files_only)
        self.assertFalse(target.exists())

    def test_no_permission(self):
        if os.getuid() != 0:
            self.skipTest("becoming another user needs root")
        closed = self.root / "closed"
        closed.mkdir(mode=0o700)
        path = self.config(closed)
        self.root.chmod(0o755)
        path.chmod(0o644)
        try:
            self.fails("run", path, says="Permission denied",
                       preexec_fn=lambda: os.setuid(65534))
        except (PermissionError, subprocess.SubprocessError):
            self.skipTest("the program lies where another user cannot run it")

    def test_unwritable_report(self):
        self.fails("run", self.config(), "--report", "/proc/report.json", says="cannot write report")

    def test_corrupt_weights_are_told(self):
        folder = self.root / "nan"
        shutil.copytree(self.model, folder)
        data = json.loads(call("inspect", folder, "--json").stdout)
        tensor = next(t for t in data["tensors"] if t["name"] == "model.norm.weight")
        with open(tensor["file"], "r+b") as file:
            file.seek(tensor["offset"])
            file.write(b"\xc0\x7f" * (tensor["bytes"] // 2))
        self.fails("run", self.config(folder), says="not a number")

    def test_probe_is_kept_and_plan_predicts_from_it(self):
        config = self.config(self.wide, memory={"ram": "64MiB"})
        cache = self.root / "probe-cache"
        environment = dict(os.environ, XDG_CACHE_HOME=str(cache))
        before = call("plan", config, env=environment)
        self.assertEqual(before.returncode, 0, before.stderr)
        self.assertIn("placed by capacity alone", before.stderr)
        self.assertNotIn("predicted", before.stdout)
        done = call("probe", "--path", self.wide, "--seconds", "0.05", env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("drive, direct reads", "4 KiB pages", "memory, reads", "BF16 matmul", "kept in"):
            self.assertIn(word, done.stdout)
        kept = list(cache.rglob("profile-*.json"))
        self.assertEqual(len(kept), 1)
        after = call("plan", config, env=environment)
        self.assertIn("decode pass of 1 token", after.stdout)
        self.assertRegex(after.stdout, r"fastest of \d+ simulated plan")
        self.assertNotIn("note:", after.stderr)
        shown = json.loads(call("plan", config, "--json", env=environment).stdout)["prediction"]
        profile = json.loads(kept[0].read_text())
        decode = shown["decode"]
        slowest = max(decode["nvme_seconds"], decode["copy_seconds"], decode["compute_seconds"])
        self.assertGreaterEqual(decode["seconds"], 0.999 * slowest)
        self.assertLessEqual(decode["seconds"], 1.2 * slowest)
        self.assertEqual(shown["drive_bytes_per_second"],
                         max(r["bytes_per_second"] for r in profile["drive"]["reads"]
                             if r["huge_pages"]))
        # A run says how it compares, on the terminal and in the report.
        report = self.root / "compared.json"
        ran = call("run", config, "--report", report, env=environment)
        self.assertRegex(ran.stdout, r"decode +time per pass +[\d.]+ m?s +[\d.]+ m?s +[\d.]+ (%|times)")
        self.assertIn("of predicted", ran.stdout)
        measured = json.loads(report.read_text())["prediction"]["measured"]["decode"]
        self.assertGreater(measured["nvme_bytes_per_second"], 0)
        self.assertGreater(measured["of_predicted"], 0)
        # Rates a hundred times as high give a plan that is as much faster; an old profile is said.
        # Every shape of reads has one rate here, so that it does not matter which a plan takes.
        fast = json.loads(kept[0].read_text())
        fast["drive"].pop("history")
        for sample in fast["drive"]["reads"]:
            sample["bytes_per_second"] = 1e8
        for entry in (e for m in fast["devices"][0]["matmuls"] for e in m["by_rows"]):
            entry.pop("beside_reads", None)
        (self.root / "even.json").write_text(json.dumps(fast))
        even = call("plan", config, "--json", "--profile", self.root / "even.json")
        decode = json.loads(even.stdout)["prediction"]["decode"]
        for sample in fast["drive"]["reads"]:
            sample["bytes_per_second"] *= 100
        for matmul in fast["devices"][0]["matmuls"]:
            for entry in matmul["by_rows"]:
                entry["weight_bytes_per_second"] *= 100
        fast["measured_at"] = "2020-01-01T00:00:00Z"
        (self.root / "fast.json").write_text(json.dumps(fast))
        quick = call("plan", config, "--json", "--profile", self.root / "fast.json")
        self.assertIn("days old", quick.stderr)
        # A drive that steps down is taken as it is then; without huge pages there are still rates.
        fast["drive"]["sustained_bytes_per_second"] = \
            max(r["bytes_per_second"] for r in fast["drive"]["reads"]) / 2
        (self.root / "tired.json").write_text(json.dumps(fast))
        tired = call("plan", config, "--json", "--profile", self.root / "tired.json")
        for sample in fast["drive"]["reads"]:
            sample["huge_pages"] = False
        (self.root / "small-pages.json").write_text(json.dumps(fast))
        pages = call("plan", config, "--json", "--profile", self.root / "small-pages.json")
        for done in (tired, pages):
            slower = json.loads(done.stdout)["prediction"]["decode"]["seconds"]
            self.assertAlmostEqual(decode["seconds"] / slower, 50, delta=3)
        faster = json.loads(quick.stdout)["prediction"]["decode"]["seconds"]
        self.assertAlmostEqual(decode["seconds"] / faster, 100, delta=5)
        # Of another machine: used when asked for, and said.
        profile["hardware"]["cpu"] = "another CPU"
        (self.root / "foreign.json").write_text(json.dumps(profile))
        foreign = call("plan", config, "--profile", self.root / "foreign.json")
        self.assertIn("is of another CPU", foreign.stderr)
        self.assertIn("simulated plan", foreign.stdout)
        # Damaged: the plan stands without a prediction; asked for by name, it is an error.
        kept[0].write_text("{")
        damaged = call("plan", config, env=environment)
        self.assertEqual(damaged.returncode, 0)
        self.assertIn("not JSON", damaged.stderr)
        self.assertIn("each pass reads", damaged.stdout)
        self.fails("plan", config, "--profile", kept[0], says="not JSON")
        self.fails("plan", config, "--profile", self.root / "none", says="no such file")

    def test_probe_refuses_what_is_no_drive(self):
        self.fails("probe", "--path", "/dev/shm", says="tmpfs")
        self.fails("probe", "--path", self.root / "none", says="no such file")
        self.fails("probe", "--device", "gpu", says="cuda:N", code=2)
        (self.root / "plain").write_text("x")
        self.fails("probe", "--path", self.wide, "--out", self.root / "plain" / "p.json",
                   says=("cannot write profile", "--out FILE"))

    def bench(self, config, *arguments, **options):
        return call("bench", config, "--repeats", 1, "--shares", "100,50", "--batches", "1,2",
                    "--memory-points", 2, "--tokens", 1, "--prompt-tokens", 8, *arguments, **options)

    def test_bench_compares(self):
        out = self.root / "bench"
        done = self.bench(self.config(self.wide), "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads((out / "bench.json").read_text())
        arms = {arm["name"]: arm for arm in results["arms"]}
        self.assertEqual(len(arms), 2 * 2 + 2 * 2 + 2)
        for name, arm in arms.items():
            if "skipped" in arm:  # no right to make control groups
                self.assertIn("mmap", name)
                self.assertIn("systemd-run", arm["skipped"])
                continue
            self.assertGreater(arm["seconds_per_pass"]["median"], 0)
            self.assertIn(arm["name"], {path.stem for path in (out / "arms").glob("*.yaml")})
        self.assertEqual(arms["decode-ram100-batch1"]["nvme_bytes_per_pass"], 0)
        half = arms["decode-ram50-batch2"]
        self.assertAlmostEqual(half["nvme_bytes_per_pass"] / (272 * MIB / 2), 1, delta=0.1)
        self.assertEqual(half["tokens_per_pass"], 2)
        self.assertEqual(arms["prompt-ram50-batch1"]["tokens_per_pass"], 8)
        rows = (out / "bench.csv").read_text().splitlines()
        self.assertEqual(len(rows), 1 + len(arms))
        self.assertEqual({row.count(",") for row in rows if "systemd" not in row}, {13})
        page = (out / "bench.html").read_text()
        self.assertIn("pass 2 of", page)  # the timeline
        # One sentence answers, the same everywhere.
        self.assertRegex(results["answer"], r"^(Give it|In|mmap) .*\.$")
        self.assertIn(results["answer"], done.stdout.splitlines())
        self.assertIn(f'<p class="answer">{results["answer"]}</p>', page)
        for line in done.stdout.split("\n\n")[0].splitlines():
            self.assertLessEqual(len(line), 80, line)
        # Its length is said before the first arm.
        self.assertRegex(done.stderr, r"\d+ arms, 1 round: (about|.* or more \(.* to read at)")
        for picture in page.split("<figure>")[1:]:
            svg = picture[picture.index("<svg"):picture.index("</svg>") + 6]
            xml.etree.ElementTree.fromstring(svg)
        xml.etree.ElementTree.parse(out / "memory.svg")
        # Every arm can be repeated by hand.
        again = call("run", out / "arms" / "decode-ram50-batch2.yaml", "--quiet")
        self.assertEqual(again.returncode, 0, again.stderr)

    def test_bench_scores_in_sweeps(self):
        out = self.root / "bench-score"
        command = ("bench", self.config(self.wide), "--sweeps", "score", "--score-tokens", 200,
                   "--ram", "180MiB", "--set", "score.chunk=32", "--repeats", 1, "--out", out)
        done = call(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        results = json.loads((out / "bench.json").read_text())
        arms = {arm["name"]: arm for arm in results["arms"]}
        self.assertEqual(list(arms), ["score-ram", "score-sweep32", "score-sweep64",
                                      "score-sweep128", "score-sweep200"])
        self.assertEqual(arms["score-ram"]["nvme_bytes_per_pass"], 0)
        for arm in list(arms.values())[1:]:
            self.assertGreater(arm["nvme_bytes_per_pass"], 100 * MIB, arm)
            self.assertEqual(arm["memory_bytes"], 180 * MIB)
        self.assertEqual(arms["score-sweep32"]["tokens_per_pass"], 32)
        self.assertEqual(arms["score-sweep128"]["tokens_per_pass"], 128)
        self.assertEqual(arms["score-sweep200"]["tokens_per_pass"], 200)
        self.assertRegex(results["answer"], r"^(From|With) \d+ tokens per sweep.*in RAM.*\.$")
        self.assertIn(results["answer"], done.stdout.splitlines())
        for line in done.stdout.split("\n\n")[0].splitlines():
            self.assertLessEqual(len(line), 80, line)
        self.assertRegex(done.stdout, r"score, by sweep\nall in RAM +\d")
        page = (out / "bench.html").read_text()
        self.assertIn("Scoring throughput, by tokens per sweep", page)
        xml.etree.ElementTree.parse(out / "score.svg")
        # Every arm can be repeated by hand.
        ids = out / "arms" / "score-ids.json"
        self.assertEqual([len(text) for text in json.loads(ids.read_text())],
                         6 * [32] + [8])
        again = call("score", out / "arms" / "score-sweep64.yaml", "--token-ids-file", ids, "--json")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(json.loads(again.stdout)["tokens"], 200 - 7)
        # What the user keeps under that name is left alone.
        ids.write_text("mine")
        done = call(*command)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(ids.read_text(), "mine")
        self.assertIn("score-ids.json", done.stdout)
        self.fails("bench", self.config(), "--score-tokens", 1, says="--score-tokens", code=2)

    def test_bench_keeps_what_it_can_measure(self):
        # On tmpfs no read is the drive's; what reads nothing is still measured.
        if pathlib.Path("/dev/shm").is_dir():
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                model = pathlib.Path(folder) / "model"
                shutil.copytree(self.model, model)
                # SIGCHLD ignored, as some services leave it: how the arms end must be known.
                done = self.bench(self.config(model), "--sweeps", "decode", "--out",
                                  self.root / "bench-shm", preexec_fn=lambda: signal.signal(
                                      signal.SIGCHLD, signal.SIG_IGN))
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stdout, r"skipped: decode, 50 % in RAM, batch 1: .*tmpfs")
                self.assertRegex(done.stdout, r"decode, by share\n100 % in RAM, batch 1 +\d")
        # An arm that does not fit is skipped with its reason.
        out = self.root / "bench-small"
        done = self.bench(self.config(self.wide), "--sweeps", "memory", "--budgets", "200MiB,4MiB,200MiB",
                          "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"skipped: decode in 4.00 MiB, Spillway: .*at least \d+MiB")
        self.assertRegex(done.stdout, r"decode, by memory\n200 MiB, Spillway +\d")
        arms = json.loads((out / "bench.json").read_text())["arms"]
        self.assertEqual(len(arms), 4, "a budget that is named twice is one")
        mapped = {arm["name"]: arm for arm in arms}["memory-200MiB-mmap"]  # the group is no larger than Spillway's promise
        if "skipped" not in mapped:
            self.assertGreater(mapped["nvme_bytes_per_pass"], 30 * MIB)
        # Nothing at all is an error.
        self.assertEqual(self.bench(self.config(self.wide), "--sweeps", "memory", "--budgets",
                                    "4MiB", "--out", self.root / "bench-none").returncode, 1)

    def test_bench_says_what_the_context_shortens(self):
        done = call("bench", self.config(), "--sweeps", "decode", "--shares", 100, "--batches", 1,
                    "--repeats", 1, "--tokens", 5000, "--quiet", "--out", self.root / "bench-context")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"note: the model's context of \d+ tokens has room for \d+ "
                                      r"decode passes that count, not 5000")

    def test_bench_is_alone_in_its_folder(self):
        out = self.root / "bench-alone"
        with subprocess.Popen([SPILLWAY, "bench", self.config(), "--out", out, "--repeats", "50"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
            try:
                while "each finished round" not in first.stderr.readline():
                    self.assertIsNone(first.poll())
                self.fails("bench", self.config(), "--out", out, says=("in use", "--out DIR"))
            finally:
                first.terminate()
                first.communicate(timeout=60)
            self.assertEqual(first.returncode, 130)

    def test_bench_refuses_at_once(self):
        config = self.config()
        (self.root / "file").write_text("x")
        self.fails("bench", config, "--out", self.root / "file" / "x", says="--out")
        self.fails("bench", config, "--sweeps", "speed", says="speed", code=2)
        busy = self.root / "busy"
        busy.mkdir()
        held = os.open(busy, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.fails("bench", config, "--out", busy, says=(str(busy), "in use by another spillway bench"))
        os.close(held)
        self.fails("bench", config, "--budgets", "lots", says="lots", code=2)
        self.fails("bench", config, "--set", "io.engine=mmap", says="io.engine: mmap is what bench compares with")
        self.fails("bench", config, "--shares", "101", says="101", code=2)
        self.fails("bench", self.root / "none.yaml", says="none.yaml")
        self.fails("bench", self.config(self.root / "no-model"), says="no-model")

    def test_trace_shows_a_pass(self):
        trace = self.root / "trace.json"
        done = call("run", self.config(self.wide, memory={"ram": "64MiB"}), "--trace", trace)
        self.assertEqual(done.returncode, 0, done.stderr)
        picture = self.root / "pass.svg"
        shown = call("trace", trace, "--svg", picture)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("pass 3 of 4", shown.stdout)
        lanes = {line.split()[0]: line.split() for line in shown.stdout.splitlines()[2:]}
        self.assertGreater(int(lanes["reads"][1]), 0)
        self.assertEqual(lanes["copies"][1], "0")
        for lane in lanes.values():
            self.assertLessEqual(int(lane[-2]), 100)
        svg = xml.etree.ElementTree.parse(picture).getroot()
        rects = svg.findall("{http://www.w3.org/2000/svg}rect")
        self.assertEqual(len(rects), sum(int(lane[1]) for lane in lanes.values()))
        for rect in rects:
            self.assertGreaterEqual(float(rect.get("x")), 90)
            self.assertLessEqual(float(rect.get("x")) + float(rect.get("width")), 981)
        self.assertIn("pass 1 of 4", call("trace", trace, "--pass", 1).stdout)
        self.fails("trace", trace, "--pass", 5, says="holds 4 passes, not 5")
        self.fails("trace", trace, "--svg", self.root, says="cannot write")
        self.fails("trace", trace, "--svg", "-", says=("cannot write picture -", "/dev/stdout"))
        self.fails("trace", self.root / "none", says="none")
        for content, says in (("{", "trace.bad"), ("[]", "traceEvents"),
                              ('{"traceEvents": []}', "no whole pass"),
                              ('{"traceEvents": [{"ph": "X"}]}', "no number ts")):
            (self.root / "trace.bad").write_text(content)
            self.fails("trace", self.root / "trace.bad", says=says)


if __name__ == "__main__":
    SPILLWAY = os.path.abspath(sys.argv.pop(1))  # some tests run it elsewhere
    unittest.main()
