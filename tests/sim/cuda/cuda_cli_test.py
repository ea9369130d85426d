#!/usr/bin/env python3
"""The program on simulated GPU machines: what it takes, what it refuses, how it ends.
Usage: cuda_cli_test.py SPILLWAY_CUDA_SIM_CLI [unittest arguments]"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SPILLWAY = ""


def call(*arguments, machine=""):
    environment = dict(os.environ, SPILLWAY_SIM_CUDA=machine)
    return subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True,
                          timeout=200, env=environment)


class CudaCli(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-cuda-cli-"))
        os.environ["XDG_CACHE_HOME"] = str(cls.root / "cache")  # no profile of this machine
        cls.model = cls.root / "model"
        done = call("synth", cls.model, "--like", "tiny", "--shards", "2")
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def config(self, **values):
        values = {"model": {"path": str(self.model)}, "memory": {"ram": "256MiB"},
                  "generate": {"prompts": ["Hello"], "max_new_tokens": 3, "ignore_eos": True},
                  **values}
        path = self.root / f"{self.id()}.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    def fails(self, machine, says, **values):
        done = call("run", self.config(**values), machine=machine)
        self.assertEqual(done.returncode, 1, done.stderr)
        errors = [l for l in done.stderr.splitlines() if not l.startswith(("note:", "plan: "))]
        self.assertEqual(len(errors), 1, done.stderr)
        for word in says:
            self.assertIn(word, errors[0])

    def test_plan_predicts_copies(self):
        report = self.root / "compute.json"
        call("run", self.config(), "--report", report)
        rows = [{"rows": r, "weight_bytes_per_second": 1e12 / r} for r in (1, 512)]
        profile = {
            "version": 2, "measured_at": "2026-01-01T00:00:00Z",
            "hardware": {"drive": "a drive", "cpu": "a CPU", "cores": 1,
                         "gpu": json.loads(report.read_text())["compute"]},
            "drive": {"file_system": "ext4", "reads": [
                {"chunk_bytes": 2**20, "depth": 8, "huge_pages": True, "bytes_per_second": 2e9}]},
            "memory_bytes_per_second": 1e10,
            "devices": [{"device": "cuda:0", "pinned_to_device_bytes_per_second": 1e9,
                         "device_to_pinned_bytes_per_second": 1e9,
                         "pageable_to_device_bytes_per_second": 1e9,
                         "matmuls": [{"dtype": "BF16", "by_rows": rows}]}]}
        (self.root / "profile.json").write_text(json.dumps(profile))

        def plan(policy):
            done = call("plan", self.config(placement={"policy": policy}), "--json", "--profile",
                        self.root / "profile.json")
            self.assertEqual(done.returncode, 0, done.stderr)
            shown = json.loads(done.stdout)
            return shown, shown["prediction"]["decode"]

        shown, decode = plan("ram")
        self.assertEqual(decode["bottleneck"], "copies")
        self.assertAlmostEqual(decode["seconds"] * 1e9 / shown["copied_bytes_per_pass"], 1, delta=0.1)
        self.assertEqual(plan("auto")[1]["bottleneck"], "compute")  # all on the GPU

    def test_bench_skips_mmap(self):
        out = self.root / "bench"
        done = call("bench", self.config(), "--sweeps", "memory,decode", "--shares", "100,0",
                    "--batches", 1, "--tokens", 1, "--repeats", 1, "--memory-points", 1, "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        arms = {arm["name"]: arm for arm in json.loads((out / "bench.json").read_text())["arms"]}
        for name, arm in arms.items():
            self.assertEqual("skipped" in arm, name.endswith("mmap"), arm)
        self.assertEqual(arms["decode-ram100-batch1"]["nvme_bytes_per_pass"], 0)
        self.assertGreater(arms["decode-ram0-batch1"]["nvme_bytes_per_pass"], 0)

    def test_auto_takes_the_gpu(self):
        report = self.root / "report.json"
        done = call("run", self.config(), "--report", report)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("computing on", done.stderr)
        result = json.loads(report.read_text())
        self.assertEqual(result["device"], "cuda:0")
        self.assertIn("Simulated GPU 0, compute capability 9.0", result["compute"])
        self.assertEqual({row["tier"] for row in result["placement"] if row["layer"] != "embed"},
                         {"gpu"})
        self.assertGreater(result["memory"]["gpu_planned_bytes"], 0)

    def test_auto_without_a_gpu_says_why(self):
        for machine, why in (("devices=0", "the NVIDIA driver sees no GPU"),
                             ("driver=0", "no NVIDIA driver is loaded"),
                             ("driver=12020", "the NVIDIA driver is too old"),
                             ("major=7", "compute capability 7.0")):
            done = call("run", self.config(), machine=machine)
            self.assertEqual(done.returncode, 0, done.stderr)
            notes = [l for l in done.stderr.splitlines() if l.startswith("note: device")]
            self.assertEqual(len(notes), 1, done.stderr)
            self.assertIn("computing on the host", notes[0])
            self.assertIn(why, notes[0])

    def test_cuda_that_cannot_be_had_is_one_line(self):
        self.fails("devices=0", ["cuda:0", "sees no GPU", "device: host"], device="cuda")
        self.fails("driver=0", ["no NVIDIA driver"], device="cuda")
        self.fails("driver=12020", ["too old", "CUDA 12.2", "13.0"], device="cuda")
        self.fails("devices=1", ["cuda:7", "1 GPU"], device="cuda:7")
        self.fails("code=0", ["no code", "SPILLWAY_CUDA_ARCHITECTURES"], device="cuda")
        self.fails("memory=1024", ["memory.gpu of 2.00 GiB", "1.00 GiB"], device="cuda",
                   memory={"ram": "256MiB", "gpu": "2GiB"})

    def test_a_device_that_stops_ends_the_run(self):
        for kernel in (0, 7, 40, 71):
            self.fails(f"fail={kernel}", ["illegal memory access", "run again"], device="cuda",
                       placement={"policy": "nvme"})

    def test_memory_that_cannot_be_pinned_is_reported(self):
        report = self.root / "report.json"
        done = call("run", self.config(placement={"policy": "ram"}), "--report", report,
                    machine="pin=16")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("note:", done.stderr)
        self.assertIn("could not be pinned", done.stderr)
        memory = json.loads(report.read_text())["memory"]
        self.assertLess(memory["ram_homes_pinned_bytes"], memory["ram_homes_bytes"])
        self.assertIn("cudaHostRegister", memory["pin_refusal"])

    def test_plan_shows_three_tiers(self):
        done = call("plan", self.config(placement={"layers": {"0": "gpu", "1": "ram"},
                                                   "policy": "nvme"}))
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("gpu", "ram", "nvme", "cuda:0", "kernel workspace"):
            self.assertIn(word, done.stdout)


if __name__ == "__main__":
    SPILLWAY = sys.argv.pop(1)
    unittest.main()
