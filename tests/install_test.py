#!/usr/bin/env python3
"""What cmake --install and cpack make of a build: places, manual pages, completions, the package.
The oracle for pages and completions is --help of the installed program.
Usage: install_test.py BUILD_FOLDER SOURCE_FOLDER [unittest arguments]"""
import gzip
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = SOURCE = pathlib.Path()
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def out(*command, **options):
    options = {"env": ENVIRONMENT, "text": True, **options}
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=120, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def need(test, program):
    if not shutil.which(program):
        test.skipTest(f"{program} is not installed here")


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="spillway-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        destination = cls.folder / "dest"
        out("cmake", "--install", BUILD, "--prefix", "/opt/spillway",
            env={**ENVIRONMENT, "DESTDIR": str(destination)})
        cls.destination = destination
        cls.prefix = destination / "opt" / "spillway"
        cls.program = cls.prefix / "bin" / "spillway"
        cls.share = cls.prefix / "share"
        cls.help = {"": out(cls.program, "--help")}
        commands = cls.help[""].split("Subcommands:\n")[1]
        for name in re.findall(r"^  (\w+) ", commands, re.M):
            cls.help[name] = out(cls.program, name, "--help")
        cls.commands = sorted(set(cls.help) - {""})

    def options(self, command):
        """As --help names them: every one at the start of a line, "-p,--prompt TEXT"."""
        found = re.findall(r"^ {2,4}((?:-{1,2}[\w-]+,?)+)", self.help[command], re.M)
        return {name for names in found for name in names.split(",") if name}


class Places(Installed):
    def test_everything_is_in_its_place(self):
        wanted = {"bin/spillway", "share/man/man1/spillway.1", "share/man/man5/spillway.yaml.5",
                  "share/bash-completion/completions/spillway", "share/zsh/site-functions/_spillway",
                  "share/fish/vendor_completions.d/spillway.fish", "share/doc/spillway/README.md",
                  "share/doc/spillway/copyright", "share/doc/spillway/LICENSE",
                  "share/doc/spillway/docs/PERFORMANCE.md", "share/doc/spillway/examples/README.md",
                  "share/doc/spillway/examples/quickstart.yaml"}
        wanted |= {f"share/man/man1/spillway-{name}.1" for name in self.commands}
        there = {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*")
                 if path.is_file()}
        self.assertEqual(wanted - there, set())
        outside = [path for path in self.destination.rglob("*")
                   if path.is_file() and self.prefix not in path.parents]
        self.assertEqual(outside, [])
        pages = {path.name for path in (self.share / "man").rglob("*.?") if path.is_file()}
        self.assertEqual(len(pages), len(self.commands) + 2, pages)

    def test_the_program_needs_nothing_of_the_build(self):
        self.assertRegex(out(self.program, "--version"), r"^\d+\.\d+\.\d+\n$")
        dynamic = out("readelf", "-d", self.program)
        self.assertNotIn("RPATH", dynamic)
        self.assertNotIn("RUNPATH", dynamic)
        for name in re.findall(r"\[(lib\S+)\]", dynamic):
            self.assertNotIn("spillway", name)

    def test_links_of_documents_lead_somewhere(self):
        documents = self.share / "doc" / "spillway"
        for path in documents.rglob("*.md"):
            for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
                source = SOURCE / path.relative_to(documents).parent / target
                unmade = "examples" not in target and not source.exists()  # in the source, too
                if "://" not in target and not unmade:
                    self.assertTrue((path.parent / target).exists(), f"{path}: {target}")

    def test_examples_work_where_they_are_copied(self):
        work = self.folder / "work"
        work.mkdir()
        out(self.program, "synth", "quickstart-model", "--like", "tiny", cwd=work)
        for name in ("quickstart", "three-tiers"):
            shutil.copy(self.share / "doc" / "spillway" / "examples" / f"{name}.yaml", work)
            self.assertIn("total", out(self.program, "plan", f"{name}.yaml", cwd=work))

    def test_help_and_messages_name_what_is_installed(self):
        (self.folder / "bad.yaml").write_text("model: {path: x}\nqwertyuiop: 1\n")
        said = subprocess.run([self.program, "run", self.folder / "bad.yaml"], capture_output=True,
                              text=True, env=ENVIRONMENT).stderr
        self.assertIn("man spillway.yaml", said)
        texts = "\n".join([*self.help.values(), said])
        self.assertNotIn("configs/", texts)
        pages = {path.stem for path in (self.share / "man").rglob("*.?") if path.is_file()}
        named = set(re.findall(r"\bman (spillway[\w.-]*\w)", texts))
        self.assertTrue(named)
        self.assertEqual(named - pages, set())


class ManualPages(Installed):
    def pages(self):
        return sorted(path for path in (self.share / "man").rglob("*.?") if path.is_file())

    def shown(self, page):
        done = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True,
                              env={**ENVIRONMENT, "MANWIDTH": "80"})
        self.assertEqual((done.returncode, done.stderr), (0, ""), page)
        return re.sub(r".\x08", "", done.stdout)

    def test_formatters_have_nothing_to_say(self):
        need(self, "man")
        for page in self.pages():
            text = self.shown(page)
            self.assertLessEqual(max(map(len, text.splitlines())), 80, page)
            for section in ("NAME", "DESCRIPTION", "SEE ALSO"):
                self.assertIn(f"\n{section}\n", text, page)
            self.assertNotRegex(text, r"`|\*\*|\]\(", f"{page}: Markdown is left")
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page],
                                  capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), page)

    def test_every_option_and_nothing_else(self):
        need(self, "man")
        known = set.union(*(self.options(command) for command in self.help))
        for command in self.commands:
            text = self.shown(self.share / "man" / "man1" / f"spillway-{command}.1")
            described = set(re.findall(r"^ {7}((?:-{1,2}[\w-]+(?:, )?)+)", text, re.M))
            described = {name for names in described for name in names.split(", ") if name}
            self.assertEqual(described, self.options(command), command)
        for page in self.pages():  # texts that people wrote, too
            named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", self.shown(page)))
            self.assertEqual(named - known, set(), page)

    def test_every_key_of_the_configuration(self):
        need(self, "man")
        script = (self.share / "bash-completion" / "completions" / "spillway").read_text()
        keys = re.search(r"_spillway_keys='([^']+)'", script)[1].split()  # what the loader knows
        self.assertIn("memory.ram", keys)
        rows = re.findall(r"^\| `([\w.]+)` \|", (SOURCE / "configs" / "README.md").read_text(), re.M)
        self.assertEqual(sorted(rows), sorted(keys))
        page = (self.share / "man" / "man5" / "spillway.yaml.5").read_text()
        self.assertEqual(sorted(re.findall(r"^\.TP\n\\fB([\w.]+)\\fR$", page, re.M)), sorted(keys))
        program = self.shown(self.share / "man" / "man1" / "spillway.1")
        for command in self.commands:
            self.assertIn(f"spillway-{command}(1)", program)


class Completion(Installed):
    """Each shell is asked the same: what a line becomes."""
    LINES = (("spillway insp", "inspect"), ("spillway run --quie", "run --quiet"),
             ("spillway run --set memory.r", "run --set memory.ram="),
             ("spillway synth new --like tin", "synth new --like tiny"),
             ("spillway probe --device host-", "probe --device host-discrete"),
             ("spillway bench my.yaml --sweeps mem", "bench my.yaml --sweeps memory"),
             ("spillway inspect mod", "inspect model_folder/"),
             ("spillway inspect mix", "inspect mixed.gguf"),
             ("spillway run mix", "run mixed.gguf"),
             ("spillway run my", "run my.yaml"),
             ("spillway plan my.yaml --profile pro", "plan my.yaml --profile profile.json"))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.work = cls.folder / "completion"
        (cls.work / "model_folder").mkdir(parents=True)
        for name in ("my.yaml", "mystery.txt", "model.txt", "mixed.gguf", "profile.json"):
            (cls.work / name).touch()
        cls.bash_script = cls.share / "bash-completion" / "completions" / "spillway"

    def typed(self, shell, setup, line):
        """What `spillway` is called with when TAB and Enter follow `line` in an interactive shell."""
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.work)
            os.execvpe(shell[0], shell, {**ENVIRONMENT, "TERM": "dumb", "PS1": "", "INPUTRC": "/dev/null"})
        text = ""
        try:
            os.write(fd, (setup + "\necho rea''dy\n").encode())
            text = self.read_until(fd, "ready")
            os.write(fd, (line + "\t\n").encode())
            text = self.read_until(fd, "]]")
        finally:
            os.close(fd)
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        return text[text.rindex("[[") + 2:text.rindex("]]")]

    def read_until(self, fd, wanted):
        text, end = "", time.monotonic() + 30
        while wanted not in text:
            ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
            self.assertTrue(ready, f"no {wanted} in {text!r}")
            text += os.read(fd, 4096).decode(errors="replace")
        return text

    def ask_bash(self, *words):
        """COMPREPLY for words as readline cuts them."""
        script = ('source "$1"; shift; COMP_LINE=$1; shift; COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$@");'
                  'COMP_CWORD=$(($# - 1)); COMP_WORDBREAKS=$\' \\t\\n"\\\'><=;|&(:\'; _spillway;'
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        line = ""
        for i, word in enumerate(words):
            glued = i > 0 and (word in "=:" and word or words[i - 1] in ("=", ":"))
            line += ("" if i == 0 or glued else " ") + word
        return out("bash", "-c", script, "bash", self.bash_script, line, *words,
                   cwd=self.work).split()

    def test_bash_knows_every_command_and_option(self):
        self.assertEqual(set(self.ask_bash("spillway", "")),
                         set(self.commands) | self.options(""))
        for command in self.commands:
            self.assertEqual(set(self.ask_bash("spillway", command, "-")), self.options(command))

    def test_bash_values(self):
        cases = ((("run", "--report", "my"), {"my.yaml", "mystery.txt"}),
                 (("run", "--report", "=", "my"), {"my.yaml", "mystery.txt"}),
                 (("run", "m"), {"my.yaml", "mixed.gguf", "model_folder"}),
                 (("inspect", "m"), {"mixed.gguf", "model_folder"}),
                 (("run", "--prompt", "my"), set()),
                 (("run", "--prompt", "text", "my"), {"my.yaml"}),
                 (("run", "--set", "memory.ram", "=", "3GiB", "my"), {"my.yaml"}),
                 (("run", "--set", "memory."), {"memory.ram=", "memory.gpu="}),
                 (("run", "--set", "memory.ram", "=", "3"), set()),
                 (("run", "my.yaml", "--qu"), {"--quiet"}),
                 (("run", "my.yaml", "my"), set()),
                 (("probe", "--device", "cuda", ":"), {"0"}),
                 (("synth", "new", "--dtype", "f"), {"f16", "f32"}),
                 (("bench", "my.yaml", "--sweeps", "memory,d"), {"memory,decode"}))
        for words, wanted in cases:
            self.assertEqual(set(self.ask_bash("spillway", *words)), wanted, words)

    def test_bash_typed(self):
        for line, wanted in self.LINES:
            setup = f"spillway() {{ echo \"[[$*\"\"]]\"; }}; source '{self.bash_script}'"
            self.assertEqual(self.typed(["bash", "--norc", "--noprofile", "-i"], setup, line), wanted)

    def test_zsh_typed(self):
        need(self, "zsh")
        functions = self.share / "zsh" / "site-functions"
        setup = (f"fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; "
                 "spillway() { echo \"[[$*\"\"]]\"; }")
        for line, wanted in self.LINES:
            # zsh takes the slash away again when the line ends there.
            self.assertEqual(self.typed(["zsh", "-f", "-i"], setup, line), wanted.rstrip("/"))

    def test_fish(self):
        need(self, "fish")
        script = self.share / "fish" / "vendor_completions.d" / "spillway.fish"
        home = self.folder / "home"
        home.mkdir(exist_ok=True)

        def ask(line):
            text = out("fish", "--no-config", "-c", f"source '{script}'; complete -C '{line}'",
                       cwd=self.work, env={**ENVIRONMENT, "HOME": str(home)})
            return {row.split("\t")[0] for row in text.splitlines()}

        for line, wanted in self.LINES:
            self.assertIn(wanted.split()[-1], ask(line), line)
        self.assertEqual(ask("spillway "), set(self.commands))
        for command in self.commands:
            long = {name for name in self.options(command) if name.startswith("--")}
            self.assertEqual({row for row in ask(f"spillway {command} --") if row.startswith("--")},
                             long)


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("dpkg-shlibdeps") or not shutil.which("file"):
            raise unittest.SkipTest("no dpkg-dev or no file: scripts/setup.sh package")
        if "CPACK_SPILLWAY_CUDA \"ON\"" in (BUILD / "CPackConfig.cmake").read_text():
            raise unittest.SkipTest("this build has CUDA, which Debian 12 has not")
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="spillway-deb-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        out("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", cls.folder)
        cls.package, = cls.folder.glob("*.deb")
        cls.version = re.search(r"VERSION ([\d.]+)", (SOURCE / "CMakeLists.txt").read_text()
                                .split("project(")[1])[1]
        cls.root = cls.folder / "root"
        out("dpkg-deb", "-x", cls.package, cls.root)

    def field(self, name):
        return out("dpkg-deb", "-f", self.package, name).strip()

    def test_what_it_says(self):
        self.assertEqual(self.package.name,
                         f"spillway_{self.version}-1_{self.field('Architecture')}.deb")
        self.assertEqual(self.field("Version"), f"{self.version}-1")
        self.assertEqual(self.field("Section"), "science")
        self.assertRegex(self.field("Maintainer"), r"^.+ <.+@.+>$")
        self.assertGreater(int(self.field("Installed-Size")), 1000)
        self.assertRegex(self.field("Description"), r"^\w.{20,79}\n (?s:.{100,})")
        depends = self.field("Depends")
        for library in ("libc6 (>=", "libtbb12", "libdnnl", "liburing2", "libsentencepiece0"):
            self.assertIn(library, depends)
        self.assertNotIn("-dev", depends)

    def test_what_it_holds(self):
        files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        for name in ("usr/bin/spillway", "usr/share/man/man1/spillway.1.gz",
                     "usr/share/man/man1/spillway-run.1.gz", "usr/share/man/man5/spillway.yaml.5.gz",
                     "usr/share/bash-completion/completions/spillway",
                     "usr/share/zsh/vendor-completions/_spillway",
                     "usr/share/fish/vendor_completions.d/spillway.fish",
                     "usr/share/doc/spillway/copyright", "usr/share/doc/spillway/changelog.gz",
                     "usr/share/doc/spillway/examples/quickstart.yaml"):
            self.assertIn(name, files)
        self.assertEqual([name for name in files if not name.startswith(("usr/bin/", "usr/share/"))],
                         [])
        with gzip.open(self.root / "usr/share/man/man1/spillway.1.gz", "rt") as page:
            self.assertIn(".TH", page.read())
        listing = out("dpkg-deb", "-c", self.package)
        for line in listing.splitlines():
            self.assertRegex(line, r"^(-rwxr-xr-x|-rw-r--r--|drwxr-xr-x) root/root ")
        self.assertIn(", stripped", out("file", self.root / "usr/bin/spillway"))

    def test_sums_are_right(self):
        sums = out("dpkg-deb", "--ctrl-tarfile", self.package, text=False)
        (self.folder / "control.tar").write_bytes(sums)
        text = out("tar", "-xOf", self.folder / "control.tar", "./md5sums")
        (self.folder / "md5sums").write_text(text)
        out("md5sum", "--quiet", "-c", self.folder / "md5sums", cwd=self.root)


if __name__ == "__main__":
    BUILD, SOURCE = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
    unittest.main()
