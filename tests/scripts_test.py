#!/usr/bin/env python3
"""The scripts that people run by hand. Usage: scripts_test.py SCRIPTS_FOLDER SPILLWAY"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = pathlib.Path()
SPILLWAY = ""


class BenchCompare(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, document):
        path = pathlib.Path(self.folder.name) / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    def compare(self, base, new, *arguments):
        return subprocess.run([sys.executable, SCRIPTS / "bench_compare.py", base, new, *arguments],
                              capture_output=True, text=True)

    @staticmethod
    def google(**figures):
        return {"benchmarks": [{"name": name, "run_type": "iteration", "bytes/s": value}
                               for name, values in figures.items() for value in values]}

    def test_ratios_and_verdicts(self):
        base = self.write("a", self.google(same=[100, 101], fast=[10, 10], wide=[50, 150], old=[1]))
        new = self.write("b", self.google(same=[102, 101], fast=[20, 20], wide=[130, 70], young=[1]))
        done = self.compare(base, new)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
        self.assertIn("noise", lines["same"])
        self.assertIn("2.000", lines["fast"])
        self.assertIn("faster", lines["fast"])
        self.assertIn("noise", lines["wide"])
        self.assertIn("only in base", lines["old"])
        self.assertIn("only in new", lines["young"])

    def test_slower_fails(self):
        base = self.write("a", self.google(x=[100]))
        new = self.write("b", self.google(x=[80]))
        done = self.compare(base, new)
        self.assertEqual(done.returncode, 1)
        self.assertIn("SLOWER", done.stdout)
        self.assertEqual(self.compare(base, new, "--threshold", "30").returncode, 0)

    def test_ratio_driver_results(self):
        base = self.write("a", [{"name": "time per token", "unit": "s", "values": [1.0]}])
        new = self.write("b", [{"name": "time per token", "unit": "s", "values": [2.0]}])
        done = self.compare(base, new)
        self.assertEqual(done.returncode, 1)
        self.assertIn("0.500", done.stdout)

    def test_wrong_input_is_one_line(self):
        good = self.write("a", self.google(x=[1]))
        for content in ("{", "[1]", "{}", '{"benchmarks": []}'):
            done = self.compare(good, self.write("bad", content))
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            self.assertIn("bad", done.stderr)
        self.assertIn("no figures named z", self.compare(good, good, "--metric", "z").stderr)


class Peers(unittest.TestCase):
    """What needs no peer: the arguments, and Spillway's own arms."""

    def peers(self, *arguments):
        return subprocess.run([sys.executable, SCRIPTS / "peers" / "peers.py", "--spillway",
                               SPILLWAY, *map(str, arguments)], capture_output=True, text=True)

    def test_wrong_input(self):
        with tempfile.TemporaryDirectory() as folder:
            for arguments, says in (([folder], "no config.json"), ([], "MODEL"),
                                    ([folder, "--only", "ollama"], "ollama"),
                                    ([folder, "--ram", "lots"], "such as 3GiB")):
                done = self.peers(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertIn(says, done.stderr)

    def test_own_arms(self):
        for name, options in (("model", ()), ("model.gguf", ("--dtype", "Q4_0"))):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                self.measure_own_arms(pathlib.Path(folder) / name, options)

    def measure_own_arms(self, model, options):
        subprocess.run([SPILLWAY, "synth", model, "--like", "tiny", *options], check=True,
                       stdout=subprocess.DEVNULL)
        done = self.peers(model, "--ram", "256MiB", "--only", "", "--repeats", 1, "--tokens", 2,
                          "--prompt-tokens", 8, "--json")
        if "run as root" in done.stderr:
            self.skipTest(done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = {(row["engine"], row["what"]): row for row in json.loads(done.stdout)}
        own = rows["Spillway", "decode"]
        mapped = rows["Spillway, io.engine: mmap", "decode"]
        self.assertGreater(own["median"], 0)
        self.assertAlmostEqual(mapped["times_spillway"], mapped["median"] / own["median"])
        self.assertGreater(rows["Spillway", "prompt"]["median"], 0)


class FetchModel(unittest.TestCase):
    """With a stand-in for curl: no half file is ever taken for the model."""
    NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name in ("bash", "sha256sum", "mkdir", "find", "mktemp", "rm", "tar", "gzip", "mv"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.cache = self.folder / "cache" / "spillway"

    def curl(self, script):
        """`$target` is the file that it has to write."""
        path = self.bin / "curl"
        path.write_text(f"#!{shutil.which('bash')}\n"
                        f'while [ "$1" != --output ]; do shift; done\ntarget=$2\n{script}\n')
        path.chmod(0o755)

    def fetch(self, *arguments, **environment):
        return subprocess.run([SCRIPTS / "fetch_model.sh", *arguments], capture_output=True, text=True,
                              env={"PATH": str(self.bin), "XDG_CACHE_HOME": str(self.cache.parent),
                                   **environment}, timeout=60)

    def fails(self, says, *arguments, **environment):
        done = self.fetch(*arguments, **environment)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertIn(says, done.stderr.splitlines()[-1])

    def test_nothing_is_kept_of_what_is_not_whole(self):
        for script, says in (("exit 7", "the download failed"),
                             ("echo half >$target; exit 18", "the download failed"),
                             ("echo half >$target", "its checksum differs"),
                             ("true", "its checksum differs")):
            self.curl(script)
            with self.subTest(script=script):
                self.fails(says)
                self.assertEqual(list(self.cache.iterdir()), [])

    def test_a_damaged_file_is_not_taken(self):
        self.cache.mkdir(parents=True)
        (self.cache / self.NAME).write_bytes(b"GGUF")
        self.curl("exit 6")
        self.fails("the download failed")
        self.assertEqual([p.name for p in self.cache.iterdir()], [self.NAME])

    def test_stopped_on_its_way(self):
        self.curl("echo half >$target; kill -TERM $PPID; exit 0")
        self.assertEqual(self.fetch().returncode, 130)
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_where_it_cannot_be_kept_or_fetched(self):
        self.fails("neither curl nor python3")
        self.curl("exit 7")
        self.fails("HOME is not set", XDG_CACHE_HOME="")
        self.fails("cannot be made", "/proc/none")
        self.fails("the download failed", XDG_CACHE_HOME="", HOME=str(self.folder / "home"))
        self.assertEqual(list((self.folder / "home/.cache/spillway").iterdir()), [])


class GpuCheck(unittest.TestCase):
    """With stand-ins for the GPU's programs: what is said and kept, whatever fails."""
    ROWS = {"benchmarks": [
        {"name": "matmul/1/real_time", "bytes/s": 2e12, "FLOP/s": 3e12, "of memory": 0.5},
        {"name": "sample/1/real_time", "error_occurred": True, "error_message": "out of memory"}]}

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name in ("nvidia-smi", "nvcc"):
            self.stand_in(f"bin/{name}", "echo stand-in release 99.0")

    def stand_in(self, name, script):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def kernels(self, text, end="exit 0"):
        self.stand_in("build/bench/bench_kernels",
                      'for a; do case $a in --benchmark_out=*) out=${a#*=};; esac; done\n'
                      f"cat >$out <<'JSON'\n{text}\nJSON\n"
                      f"echo stand-in: memory 1 GB/s, bf16 matmul 1 TFLOP/s\n{end}")

    def check(self, stages, *arguments):
        out = self.folder / "out.md"
        done = subprocess.run(
            ["bash", SCRIPTS / "gpu_check.sh", "--stages", stages, "--build", self.folder / "build",
             "--out", out, "--bundle", self.folder, *arguments], capture_output=True, text=True,
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": str(self.folder)}, timeout=120)
        return done, out.read_text() if out.exists() else ""

    def test_a_benchmark_that_errs_is_a_row(self):
        self.kernels(json.dumps(self.ROWS))
        done, kept = self.check("kernels,sanitize")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("| matmul/1 | 2000 | 50 % | 3.0 |", kept)
        self.assertIn("| sample/1 | failed: out of memory |", kept)
        self.assertIn("stage kernels: **failed**", kept)
        self.assertIn("stage sanitize: skipped: compute-sanitizer is not installed", kept)

    def test_what_is_not_built_is_skipped_and_no_pass(self):
        done, kept = self.check("ratio,test")
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("stage ratio: skipped: not built: bench/spillway_ratio", kept)
        self.assertIn("stage test: skipped: not built: tests/kernels_test", kept)

    def test_all_passed(self):
        self.kernels(json.dumps({"benchmarks": self.ROWS["benchmarks"][:1]}))
        done, kept = self.check("kernels")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("stage kernels: passed", kept)

    def test_a_stage_at_its_limit_keeps_its_rows(self):
        text = json.dumps(self.ROWS)
        self.kernels(text[:text.index("}") + 2], "exec sleep 60")
        done, kept = self.check("kernels,ratio", "--limit", "2")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("| matmul/1 | 2000 |", kept)
        self.assertIn("stage kernels: **stopped** at its limit of 2 s", kept)
        self.assertIn("stage ratio: skipped", kept)

    def test_unknown_stage(self):
        done, _ = self.check("kernels,speed")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no stage speed", done.stderr)


if __name__ == "__main__":
    SCRIPTS, SPILLWAY = pathlib.Path(sys.argv.pop(1)), sys.argv.pop(1)
    unittest.main()
