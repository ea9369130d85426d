#!/usr/bin/env python3
"""Ctrl-C, SIGTERM and SIGHUP at random moments of every long command: the documented exit code, whole
files, within seconds, every time.

Usage: signals_test.py SPILLWAY_BINARY [MOMENTS [SEED]]. With 100 moments or more also on the large
case: 24 layers of 1024, one thread, a prompt of 4000 tokens. Prints one line per failure and the
slowest stops; exits 1 when there was any failure.
"""
import json
import os
import pathlib
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
NOTHING_YET = "spillway: stopped; there was nothing to keep yet\n"
MOST_SECONDS = 3.0  # from the signal to the end
LONGEST_DELAY = 20.0


def take_signals():
    """A shell ignores some signals for what it runs in the background."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class Scenario:
    """A command with the files it leaves. `finished` says whether a process that exited 0 did all."""

    def __init__(self, name, arguments, files, folder=None):
        self.name = name
        self.arguments = arguments
        self.files = files
        self.folder = folder  # made by the command, gone when it was stopped
        self.seconds = 0.0    # how long it takes when it is left alone


class Signals:
    def __init__(self, binary, moments, seed):
        self.binary = binary
        self.moments = moments
        self.random = random.Random(seed)
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-signals-"))
        self.out = self.root / "out"
        self.failures = []
        self.slowest = []
        os.environ["XDG_CACHE_HOME"] = str(self.root / "cache")
        self.scenarios = self.make_scenarios()

    def make_model(self, name, *shape):
        subprocess.run([self.binary, "synth", self.root / name, *map(str, shape)], check=True,
                       capture_output=True, timeout=600)
        return self.root / name

    def config(self, name, model, **sections):
        values = {"model": {"path": str(model)}, "device": "host", "compute": {"threads": 1}}
        values.update(sections)
        path = self.root / f"{name}.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    def make_scenarios(self):
        shape = ["--layers", 6, "--hidden", 512, "--intermediate", 1024, "--heads", 8, "--vocab", 1024]
        model = self.make_model("model", *shape)
        report, trace = self.out / "report.json", self.out / "trace.json"
        files = ["--report", report, "--trace", trace]

        def run(name, model, prompt_tokens, new_tokens, **placement):
            generate = {"prompt_token_ids": [[i % 900 for i in range(prompt_tokens)]],
                        "prefill_chunk": 4096, "max_new_tokens": new_tokens, "ignore_eos": True}
            config = self.config(name, model, generate=generate, memory={"ram": "2GiB"},
                                 placement=placement)
            return Scenario(name, ["run", config, *files], [report, trace])

        ids = self.root / "ids.json"
        ids.write_text(json.dumps([[(7 * i + t) % 1000 for i in range(200)] for t in range(12)]))
        score = self.config("score", model, memory={"ram": "1GiB"}, placement={"policy": "nvme"},
                            score={"chunk": 256})
        bench = self.config("bench", model)
        scenarios = [
            run("prompt", model, 1500, 4, policy="ram"),
            run("decode", model, 8, 60, policy="nvme"),
            run("mixed", model, 200, 30, ram_share=0.5),
            Scenario("score", ["score", score, "--token-ids-file", ids, *files], [report, trace]),
            Scenario("bench", ["bench", bench, "--out", self.out / "bench", "--repeats", 1,
                               "--sweeps", "decode", "--shares", "0,100", "--batches", 1,
                               "--tokens", 20], [self.out / "bench" / "bench.json"]),
            Scenario("quantize", ["quantize", model, self.out / "made.gguf", "--type", "q4_k",
                                  "--ram", "32MiB"], [], self.out / "made.gguf"),
            Scenario("synth", ["synth", self.out / "made", *shape, "--shards", 3], [],
                     self.out / "made"),
        ]
        if self.moments >= 100:
            large = self.make_model("large", "--layers", 24, "--hidden", 1024, "--intermediate",
                                    2048, "--heads", 16, "--vocab", 1024)
            scenarios.append(run("large prompt", large, 4000, 4, policy="ram"))
        return scenarios

    def start(self, scenario, **options):
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        arguments = [str(self.binary), *map(str, scenario.arguments)]
        options.setdefault("preexec_fn", take_signals)
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                **options)

    @staticmethod
    def wait_until_ready(process):
        """Before its first statements a process dies by any signal, as every program does."""
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            blocked = int(status.split("SigBlk:")[1].split()[0], 16)
            if blocked & (1 << (signal.SIGTERM - 1)):
                return
            time.sleep(0.001)

    def has_begun(self, process, scenario):
        """Whether there is something to keep for certain: the folder of results, or weights read."""
        if scenario.name == "bench":
            return (self.out / "bench").exists()
        if not scenario.files:
            return False
        try:
            text = pathlib.Path(f"/proc/{process.pid}/io").read_text()
        except OSError:
            return False
        counts = dict(line.split(": ") for line in text.strip().split("\n"))
        read = max(int(counts["rchar"]), int(counts["read_bytes"]))
        before = sum(path.stat().st_size for path in self.root.glob("*.*") if path.is_file())
        weights = (self.root / "model" / "model.safetensors").stat().st_size
        return read > before + weights // 2

    def measure(self, scenario):
        begin = time.monotonic()
        process = self.start(scenario)
        try:
            _, errors = process.communicate(timeout=LONGEST_DELAY)
            if process.returncode != 0:
                self.fail(scenario, f"left alone it exits {process.returncode}", errors)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
        scenario.seconds = time.monotonic() - begin

    def fail(self, scenario, what, errors=""):
        self.failures.append(f"{scenario.name}: {what}")
        print(f"FAILED {scenario.name}: {what}\n{errors}", flush=True)

    def one_moment(self, scenario):
        number = self.random.choice(SIGNALS)
        delay = self.random.uniform(0, min(1.1 * scenario.seconds, LONGEST_DELAY))
        process = self.start(scenario)
        self.wait_until_ready(process)
        time.sleep(delay)
        what = f"{number.name} after {delay:.3f} s"
        begun = self.has_begun(process, scenario)
        begin = time.monotonic()
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            return self.fail(scenario, f"{what}: no end in 60 s", errors)
        seconds = time.monotonic() - begin
        self.slowest.append((seconds, scenario.name, what))
        if process.returncode not in (0, INTERRUPTED):
            return self.fail(scenario, f"{what}: exits {process.returncode}", errors)
        if seconds > MOST_SECONDS:
            self.fail(scenario, f"{what}: took {seconds:.1f} s to end", errors)
        self.check_files(scenario, what, process.returncode, errors, begun)

    def check_files(self, scenario, what, code, errors, begun):
        if scenario.folder is not None and scenario.folder.exists() != (code == 0):
            self.fail(scenario, f"{what}: exits {code}, but its folder "
                      f"{'is' if code else 'is not'} there", errors)
        # Stopped before there was anything to say of it: then nothing is left.
        early = code == INTERRUPTED and NOTHING_YET in errors
        if early and begun:
            self.fail(scenario, f"{what}: something to keep was there", errors)
        for file in scenario.files:
            if not file.exists():
                if not early:
                    self.fail(scenario, f"{what}: exits {code} without {file.name}", errors)
                continue
            try:
                data = json.loads(file.read_text())
            except ValueError as error:
                self.fail(scenario, f"{what}: {file.name} is not whole: {error}", errors)
                continue
            if file.name == "report.json" and data["interrupted"] != (code == INTERRUPTED):
                self.fail(scenario, f"{what}: exits {code}, the report says {data['interrupted']}")
        expected = {file.relative_to(self.out).parts[0] for file in scenario.files}
        if scenario.folder is not None:
            expected.add(scenario.folder.name)
        left = {path.name for path in self.out.iterdir()} - expected
        if left:
            self.fail(scenario, f"{what}: leaves {left}", errors)

    # What else the documents say of signals

    def second_signal_ends_at_once(self):
        """A reader that is slow holds the process in its last step; it must still end."""
        ids = self.root / "many.json"
        ids.write_text(json.dumps([[i % 200 + 1 for i in range(200)]] * 40))
        pipe = self.root / "report.fifo"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        config = self.config("second", self.root / "model", score={"chunk": 4000})
        scenario = Scenario("second signal", ["score", config, "--token-ids-file", ids, "--quiet",
                                              "--report", pipe], [])
        process = self.start(scenario)
        select.select([reader], [], [], 60)  # it writes now, and the pipe holds less than all
        process.send_signal(signal.SIGINT)
        first = time.monotonic()
        while time.monotonic() - first < 0.4:  # signals close to the first are the same request
            if select.select([reader], [], [], 0)[0]:
                os.read(reader, 4096)
            time.sleep(0.05)
        if process.poll() is not None:
            self.fail(scenario, f"the first ended it, with {process.returncode}")
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = "never"
        if code != INTERRUPTED or time.monotonic() - begin > 1:
            self.fail(scenario, f"exits {code} after {time.monotonic() - begin:.1f} s")
        process.stdout.close()
        process.stderr.close()
        os.close(reader)

    def ignored_signals_stay_ignored(self):
        scenario = Scenario("nohup", self.scenarios[0].arguments, [])
        process = self.start(
            scenario, preexec_fn=lambda: [signal.signal(s, signal.SIG_IGN)
                                          for s in (signal.SIGINT, signal.SIGHUP)])
        self.wait_until_ready(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode != 0:
            self.fail(scenario, f"exits {process.returncode}", errors)

    def timeout_is_one_request(self):
        """timeout(1) signals its child and then the group: no second Ctrl-C."""
        scenario = self.scenarios[1]
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        arguments = [str(a) for a in scenario.arguments] + ["--set", "generate.max_new_tokens=4000"]
        done = subprocess.run(["timeout", "2", self.binary, *arguments], capture_output=True,
                              text=True, timeout=60)
        if done.returncode != 124:
            self.fail(scenario, f"timeout(1) exits {done.returncode}", done.stderr)
        self.check_files(scenario, "timeout(1)", INTERRUPTED, done.stderr, True)

    def run(self):
        self.ignored_signals_stay_ignored()
        self.second_signal_ends_at_once()
        self.timeout_is_one_request()
        for scenario in self.scenarios:
            self.measure(scenario)
        for moment in range(self.moments):
            self.one_moment(self.scenarios[moment % len(self.scenarios)])
        shutil.rmtree(self.root)
        for seconds, name, what in sorted(self.slowest, reverse=True)[:5]:
            print(f"{seconds:.2f} s: {name}, {what}")
        print(f"{self.moments} moments, {len(self.failures)} failures")
        return 1 if self.failures else 0


def main():
    moments = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    print(f"seed {seed}")
    sys.exit(Signals(pathlib.Path(sys.argv[1]).resolve(), moments, seed).run())


if __name__ == "__main__":
    main()
