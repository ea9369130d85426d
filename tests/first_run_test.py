#!/usr/bin/env python3
"""The first five minutes: models without YAML, prompts from everywhere, init, the Hugging Face cache,
answers as text and as JSON. Usage: first_run_test.py SPILLWAY_BINARY [unittest arguments]"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SPILLWAY = ""


class FirstRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-first-"))
        cls.home = cls.root / "home"
        cls.home.mkdir()
        cls.model = cls.root / "models" / "tiny-model"
        cls.model.parent.mkdir()
        subprocess.run([SPILLWAY, "synth", str(cls.model), "--like", "tiny"], check=True,
                       stdout=subprocess.DEVNULL)
        hub = cls.home / ".cache/huggingface/hub/models--acme--tiny"
        blobs = hub / "blobs"
        blobs.mkdir(parents=True)
        snapshot = hub / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        for file in cls.model.iterdir():
            shutil.copy(file, blobs / file.name)
            (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
        (hub / "snapshots" / ("b" * 40)).mkdir()  # of another branch, and empty
        (hub / "refs").mkdir()
        (hub / "refs/main").write_text("a" * 40)
        cls.hub = hub

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def call(self, *arguments, stdin="", cwd=None, **environment):
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith("HF_") and k != "XDG_CACHE_HOME"}
        return subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True,
                              input=stdin, cwd=cwd or self.root, timeout=120,
                              env={**clean, "HOME": str(self.home), **environment})

    def works(self, *arguments, **options):
        done = self.call(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def fails(self, *arguments, says, code=1, **options):
        done = self.call(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        errors = [l for l in done.stderr.splitlines() if not l.startswith(("note:", "plan: "))]
        self.assertEqual(len(errors), 1, done.stderr)
        for text in says if isinstance(says, tuple) else (says,):
            self.assertIn(text, errors[0])

    def report(self, *arguments, **options):
        return json.loads(self.works(*arguments, "--json", "--device", "host", **options).stdout)

    def prompts(self, *arguments, **options):
        report = self.report("run", self.model, "-n", 2, *arguments, **options)
        return [output["prompt"] for output in report["outputs"]]

    # A model without YAML

    def test_a_folder_is_enough(self):
        report = self.report("run", self.model, "-p", "Hello", "--ram", "64MiB", "-n", 3, "--set",
                             "generate.ignore_eos=true")
        self.assertEqual(len(report["outputs"][0]["output_token_ids"]), 3)
        self.assertEqual(report["memory"]["ram_budget_bytes"], 64 << 20)

    def test_relative_folders(self):
        for name in ("models/tiny-model", "models/tiny-model/", "./models/tiny-model"):
            self.report("run", name, "-p", "Hello", "-n", 1)
        self.report("run", ".", "-p", "Hello", "-n", 1, cwd=self.model)

    def test_every_command_takes_a_folder(self):
        self.assertIn("each pass reads", self.works("plan", self.model, "--ram", "64MiB").stdout)
        text = self.root / "text.txt"
        text.write_text("Some text to score.")
        result = self.report("score", self.model, "--text-file", text)
        self.assertGreater(result["tokens"], 0)
        self.assertGreater(result["perplexity"], 0)

    def test_prompts_from_everywhere(self):
        file = self.root / "prompt.txt"
        file.write_bytes(b"From a file\nof two lines\r\n")
        self.assertEqual(self.prompts("-p", "One", "--prompt", "Two"), ["One", "Two"])
        self.assertEqual(self.prompts("-p", "-", stdin="From a pipe\n"), ["From a pipe"])
        self.assertEqual(self.prompts("--prompt-file", "-", stdin="Also\n"), ["Also"])
        self.assertEqual(self.prompts("--prompt-file", file), ["From a file\nof two lines"])
        self.assertEqual(self.prompts("-p", "One", "--prompt-file", file),
                         ["One", "From a file\nof two lines"])

    def test_a_prompt_is_not_written_over(self):
        file = self.root / "kept.txt"
        file.write_text("A prompt")
        self.fails("run", self.model, "--prompt-file", file, "--report", file, says="prompt")
        self.assertEqual(file.read_text(), "A prompt")

    def test_mistakes(self):
        self.fails("run", self.model, says=("nothing to do", "-p TEXT"))
        self.fails("run", self.model, "-p", "-", says="prompt 1 is empty")
        self.fails("run", self.model, "-p", "-", "--prompt-file", "-", says="more than once")
        self.fails("run", self.model, "-p", "x", "--report", "-", says=("cannot write report -", "/dev/stdout"))
        self.fails("run", self.model, "--prompt-file", self.root, says="a prompt")
        self.fails("run", self.model, "--prompt-file", self.root / "none", says="none")
        self.fails("run", self.model, "-p", "x", "--ram", "lots", says="a size", code=2)
        self.fails("run", self.model, "-p", "x", "--device", "tpu", says="host", code=2)
        self.fails("run", self.model, "-p", "x", "-n", "0", says="-n", code=2)
        self.fails("run", self.model, "-p", "x", "--json", "--json-lines", says="--json", code=2)
        self.fails("run", self.root / "nowhere", "-p", "x", says="nowhere")
        self.fails("run", self.home, "-p", "x", says=str(self.home))

    # The Hugging Face cache

    def test_a_name_in_the_cache(self):
        report = self.report("run", "acme/tiny", "-p", "Hello", "-n", 1)
        self.assertIn("a" * 40, report["model"]["path"])
        self.works("inspect", "acme/tiny")
        self.works("tokenize", "acme/tiny", "--text", "Hello")
        self.report("run", self.hub, "-p", "Hello", "-n", 1)  # the folder of all its versions
        config = self.root / "named.yaml"
        config.write_text("model: {path: acme/tiny}\ngenerate: {prompts: [Hi], max_new_tokens: 1}\n")
        self.report("run", config)

    def test_where_the_cache_is(self):
        hub = self.home / ".cache/huggingface/hub"
        for name, value in (("HF_HUB_CACHE", hub), ("HF_HOME", hub.parent),
                            ("XDG_CACHE_HOME", hub.parent.parent)):
            self.report("run", "acme/tiny", "-p", "x", "-n", 1, HOME="/nonexistent",
                        **{name: str(value)})
        self.fails("run", "acme/tiny", "-p", "x", says="hf download acme/tiny",
                   HF_HUB_CACHE=str(self.root))

    def test_a_name_that_is_not_there(self):
        self.fails("run", "acme/other", "-p", "x",
                   says=("acme/other", "Hugging Face cache", "hf download acme/other"))
        self.fails("inspect", "acme/other", says="hf download acme/other")
        self.fails("run", "acme/../tiny", "-p", "x", says="acme/../tiny")

    def test_a_folder_comes_before_the_cache(self):
        self.report("run", "models/tiny-model", "-p", "x", "-n", 1)

    def test_a_version_without_refs(self):
        hub = self.home / ".cache/huggingface/hub/models--acme--bare"
        shutil.copytree(self.hub, hub, symlinks=True)
        shutil.rmtree(hub / "refs")
        (hub / "snapshots" / ("b" * 40)).rmdir()
        self.report("run", "acme/bare", "-p", "x", "-n", 1)

    def other_cache(self, name, revisions, main=None):
        """A repository whose snapshots are those of the model."""
        hub = self.hub.parent / f"models--acme--{name}"
        for revision in revisions:
            shutil.copytree(self.hub / "snapshots" / ("a" * 40), hub / "snapshots" / revision)
        (hub / "refs").mkdir()
        if main is not None:
            (hub / "refs/main").write_text(main)
        return hub

    def test_no_version_is_guessed(self):
        hub = self.other_cache("torn", ["old", "new"], main="gone")
        for name in ("acme/torn", hub):
            self.fails("inspect", name, says=("refs/main", "revision gone", "fetch it: hf download acme/torn"))
        (hub / "refs/main").write_text("../old")
        self.fails("inspect", "acme/torn", says=("refs/main", "names no revision"))
        (hub / "refs/main").unlink()
        self.fails("inspect", "acme/torn", says=("2 revisions", "no refs/main", str(hub / "snapshots/new")))
        self.works("inspect", hub / "snapshots/old")
        training = self.root / "training"  # is no repository
        (training / "snapshots/step1").mkdir(parents=True)
        (training / "snapshots/step2").mkdir()
        self.fails("inspect", training, says="neither model.safetensors")

    def as_nobody(self, *arguments):
        return subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True, user=65534,
                              group=65534, extra_groups=[], cwd="/", env={"HOME": str(self.home)}, timeout=60)

    @unittest.skipIf(os.geteuid() != 0, "root alone can become somebody else")
    def test_a_cache_that_may_not_be_read(self):
        os.chmod(self.root, 0o755)
        try:
            readable = self.as_nobody("--version").returncode == 0
        except PermissionError:
            readable = False
        if not readable:
            self.skipTest("the program lies in a folder of root's")
        self.assertEqual(self.as_nobody("inspect", self.model).returncode, 0)
        hub = self.other_cache("shut", ["one"], main="one")
        for closed, mode, says in ((hub, 0o700, "cannot look into"), (hub / "refs/main", 0o600, "refs/main"),
                                   (hub.parent, 0o700, "cannot look into")):
            before = closed.stat().st_mode
            closed.chmod(mode)
            try:
                done = self.as_nobody("inspect", "acme/shut")
            finally:
                closed.chmod(before)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(says, done.stderr)
            self.assertNotIn("hf download", done.stderr)

    # init

    def test_init_writes_what_run_reads(self):
        folder = self.root / "fresh"
        folder.mkdir()
        done = self.works("init", self.model, cwd=folder)
        self.assertIn("spillway run tiny-model.yaml", done.stdout)
        text = (folder / "tiny-model.yaml").read_text()
        for words in ("cores", "This model runs from", "max_new_tokens", "auto takes"):
            self.assertIn(words, text)
        report = self.report("run", folder / "tiny-model.yaml", "-n", 2)
        self.assertEqual(report["outputs"][0]["prompt"], "The capital of France is")
        self.assertEqual(self.works("plan", folder / "tiny-model.yaml").returncode, 0)

    def test_init_says_what_memory_brings(self):
        environment = {"XDG_CACHE_HOME": str(self.root / "measured")}
        self.works("probe", "--path", self.root, "--seconds", "0.01", "--device", "host", **environment)
        wide = self.root / "wide"
        self.works("synth", wide, "--layers", 4, "--hidden", 512, "--intermediate", 2048, "--heads", 8,
                   "--vocab", 4096)
        text = self.works("init", wide, "-o", "-", **environment).stdout
        self.assertEqual(text.count(" per token\n"), 3, text)
        config = self.root / "wide.yaml"
        config.write_text(text)
        budgets = re.findall(r"^  #   ([\d.]+ \w+) ", text, re.M)
        budgets += re.search(r"runs from ([\d.]+ \w+) on and fits whole into ([\d.]+ \w+)\.",
                             text).groups()
        for budget in budgets:
            report = self.report("run", config, "--ram", budget)  # what is shown is enough
        self.assertEqual(report["io"]["nvme_bytes_per_pass"], 0)

    def test_init_leaves_what_is_there(self):
        file = self.root / "mine.yaml"
        self.works("init", self.model, "-o", file)
        file.write_text(file.read_text() + "# my own words\n")
        self.fails("init", self.model, "-o", file, says=("mine.yaml", "--out"))
        self.assertIn("# my own words", file.read_text())
        self.fails("init", self.model, "-o", self.model / "config.json", says="config.json")

    def test_init_prints(self):
        done = self.works("init", "acme/tiny", "--out", "-")
        self.assertTrue(done.stdout.startswith("# Spillway configuration of tiny"))
        file = self.root / "printed.yaml"
        file.write_text(done.stdout)
        self.report("run", file, "-n", 1)

    def test_init_names_a_command_that_works(self):
        for name in ("sp ace", "-z", "it's", "a\x1b[31mb"):
            with self.subTest(name=name):
                folder = self.root / "words" / name
                folder.parent.mkdir(exist_ok=True)
                shutil.copytree(self.model, folder)
                done = self.works("init", f"./{name}", cwd=folder.parent)
                self.assertNotIn("\x1b", done.stdout)
                if "\x1b" in name:  # nobody can type it
                    self.assertNotIn("try: ", done.stdout)
                    continue
                command = done.stdout.split("try: ")[1].strip()
                ran = subprocess.run(["sh", "-c", command.replace("spillway", f"'{SPILLWAY}'", 1) +
                                      " -n 1 --quiet"], cwd=folder.parent, capture_output=True, text=True,
                                     timeout=60, env={**os.environ, "HOME": str(self.home)})
                self.assertEqual(ran.returncode, 0, command + ran.stderr)

    def test_init_of_any_folder_name(self):
        for name in ('sp ace', "quo'te\"s", "new\nline", "käse", "a: b # c", "{x}", "*y", "-z"):
            with self.subTest(name=name):
                folder = self.root / "odd" / name
                folder.parent.mkdir(exist_ok=True)
                shutil.copytree(self.model, folder)
                done = self.works("init", folder, "-o", "-")
                file = self.root / "odd.yaml"
                file.write_text(done.stdout)
                self.report("run", file, "-n", 1)

    def test_what_a_prompt_is_read_from_is_not_written_over(self):
        file = self.root / "prompt.txt"
        file.write_text("Hello")
        for arguments in (("-p", "-"), ("--prompt-file", file)):
            with self.subTest(arguments=arguments), open(file) as stdin, open(file, "a") as out:
                done = subprocess.run([SPILLWAY, "run", self.model, *arguments, "-n", "2", "--quiet"],
                                      stdin=stdin, stdout=out, stderr=subprocess.PIPE, text=True)
                self.assertEqual(done.returncode, 1)
                self.assertIn("it is also a prompt", done.stderr)
            self.assertEqual(file.read_text(), "Hello")
        self.fails("run", self.model, "--prompt-file", file, "--report", file, says="also a prompt")
        self.fails("run", self.model, "-p", "-", "-p", "-", says="more than once", stdin="x")

    def test_standard_input_that_is_closed_is_no_prompt(self):
        done = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&-', SPILLWAY, "run", self.model, "-p", "-"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot read standard input", done.stderr)

    def test_no_output_becomes_a_part_of_the_model(self):
        for name in ("new.safetensors", "tokenizer.model", "vocab.json"):
            file = self.model / name
            self.fails("init", self.model, "-o", file, says="a file of the model")
            self.fails("run", self.model, "-p", "x", "--report", file, says="a file of the model")
            self.fails("probe", "--path", self.model, "--out", file, says="a file of the model")
            self.assertFalse(file.exists())

    def test_ids_of_a_padded_vocabulary_have_no_text(self):
        padded = self.root / "padded"
        self.works("synth", padded, "--layers", 1, "--hidden", 64, "--intermediate", 64, "--heads", 1,
                   "--vocab", 4096)
        text = self.works("tokenize", padded, "--text", "[4095]", "--decode").stdout
        report = self.report("run", padded, "--set", "generate.prompt_token_ids=[[4095]]", "-n", 1)
        self.assertEqual(report["outputs"][0]["prompt_token_ids"], [4095])
        self.assertEqual(text.count("\n"), 1)
        self.fails("tokenize", padded, "--text", "[4096]", "--decode", says="ids end at 4095")
        for wrong in ("[4294967297]", "[-1]", "[1.5]", "[[1]]"):
            self.fails("tokenize", padded, "--text", wrong, "--decode", says="a JSON list of token ids")

    # What is said

    def test_an_expectation_before_the_answer(self):
        done = self.works("run", self.model, "-p", "Hello", "-n", 2)
        self.assertRegex(done.stderr, r"(?m)^plan: .* MiB of memory, nothing from NVMe$")
        done = self.works("run", self.model, "-p", "Hello", "-n", 2, "--set",
                          "placement.layers={embed: nvme}")
        self.assertRegex(done.stderr, r"(?m)^plan: .* of memory, only embedding rows from NVMe$")
        self.assertEqual(self.works("run", self.model, "-p", "x", "-n", 2, "--quiet").stderr, "")

    def test_notes_are_in_the_report(self):
        report = self.report("run", self.model, "-p", "Hello", "-n", 1, "--quiet")
        self.assertTrue(any("probe" in note for note in report["notes"]), report["notes"])

    def test_version_and_help_name_the_commands(self):
        text = self.works("--help").stdout
        for command in ("run", "init", "plan", "score", "bench", "probe"):
            self.assertIn(command, text)
        self.assertIn("--prompt-file", self.works("run", "--help").stdout)


if __name__ == "__main__":
    SPILLWAY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
