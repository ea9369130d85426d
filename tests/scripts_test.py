#!/usr/bin/env python3
"""The scripts that people run by hand. Usage: scripts_test.py SCRIPTS_FOLDER SPILLWAY"""
import json
import pathlib
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
            for arguments, says in (([folder], "no config.json"), ([], "MODEL_DIR"),
                                    ([folder, "--only", "ollama"], "ollama"),
                                    ([folder, "--ram", "lots"], "such as 3GiB")):
                done = self.peers(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertIn(says, done.stderr)

    def test_own_arms(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model"
            subprocess.run([SPILLWAY, "synth", model, "--like", "tiny"], check=True,
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


if __name__ == "__main__":
    SCRIPTS, SPILLWAY = pathlib.Path(sys.argv.pop(1)), sys.argv.pop(1)
    unittest.main()
