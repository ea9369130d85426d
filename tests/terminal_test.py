#!/usr/bin/env python3
"""What a terminal shows: progress at any width, resized while running, with and without colour, dumb
and redirected; answers as they are made. Usage: terminal_test.py SPILLWAY_BINARY [unittest arguments]"""
import codecs
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

SPILLWAY = ""
PROGRESS = re.compile(r"tokens left|/\d+ tokens, |^loading |^prompt: ")


class Screen:
    """A terminal that wraps at its width and, like most, wraps anew when that changes. Knows what the
    program may say: text, line ends, carriage returns, CSI A, J, K and m; all else is an error."""

    def __init__(self, columns):
        self.columns = columns
        self.lines = [""]      # as written: rows are pieces of them
        self.line = 0          # of the cursor
        self.at = 0            # in that line
        self.behind_text = False  # no control moved the cursor since
        self.colours = 0
        self.last_progress = 0  # columns
        self.widest_progress = 0
        self.progress_lines = 0
        self.rest = ""

    def feed(self, text):
        text = self.rest + text
        self.rest = ""
        i = 0
        while i < len(text):
            if text[i] == "\x1b":
                match = re.match(r"\x1b\[(\d*)([A-Za-z])", text[i:])
                if not match:
                    if len(text) - i > 8:
                        raise AssertionError(f"unknown sequence {text[i:i + 8]!r}")
                    self.rest = text[i:]
                    return
                self.command(match[2], int(match[1] or 1))
                i += match.end()
                continue
            self.character(text[i])
            i += 1
        self.note_progress()

    def character(self, c):
        if c == "\r":
            self.note_progress()
            if PROGRESS.search(self.lines[self.line]):
                self.last_progress = len(self.lines[self.line])
            # Behind the last column the cursor is still in that row.
            self.at -= (self.at - 1) % self.columns + 1 if self.behind_text else self.at % self.columns
            self.behind_text = False
        elif c == "\n":
            self.line += 1
            self.at = 0
            self.behind_text = False
            if self.line == len(self.lines):
                self.lines.append("")
        else:
            if ord(c) < 32 and c != "\t":
                raise AssertionError(f"control character {c!r}")
            line = self.lines[self.line].ljust(self.at)
            self.lines[self.line] = line[:self.at] + c + line[self.at + 1:]
            self.at += 1
            self.behind_text = True

    def command(self, name, count):
        if name == "m":
            self.colours += 1
        elif name == "A":
            self.at -= count * self.columns
            self.behind_text = False
            if self.at < 0:
                raise AssertionError("the cursor left the progress line upwards")
        elif name == "J":
            self.note_progress()
            self.lines[self.line] = self.lines[self.line][:self.at]
            del self.lines[self.line + 1:]
        elif name == "K":
            self.lines[self.line] = self.lines[self.line][:self.at]
        else:
            raise AssertionError(f"unknown sequence {name}")

    def note_progress(self):
        line = self.lines[self.line]
        if PROGRESS.search(line):
            self.progress_lines += 1
            self.widest_progress = max(self.widest_progress, len(line))

    def resize(self, columns):
        self.columns = columns
        self.last_progress = 10**6  # of the new size none was seen


MARK = "\x05"  # the program writes no such byte; one, so that no read cuts it


def set_size(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))


class OnTerminal:
    """The program on a terminal of its own; `stdout` and `stderr` may go elsewhere."""

    def __init__(self, arguments, columns=80, term="xterm-256color", stdout=None, stderr=None, **more):
        self.terminal, side = pty.openpty()
        set_size(self.terminal, columns)
        self.screen = Screen(columns)
        environment = {**os.environ, "TERM": term, **more}
        environment.pop("NO_COLOR", None) if "NO_COLOR" not in more else None
        self.process = subprocess.Popen([SPILLWAY, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                        stdout=stdout or side, stderr=stderr or side,
                                        env=environment)
        self.name = os.ttyname(side)
        os.close(side)
        self.raw = ""
        self.marked = False
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def read(self, until=lambda screen: False):
        """To the end, or until the screen shows what is waited for."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if not select.select([self.terminal], [], [], 5)[0]:
                continue
            try:
                if not self.take():
                    return True
            except OSError:  # the last of the other side is gone
                return True
            if until(self.screen):
                return False
        raise AssertionError("the program did not end:\n" + "\n".join(self.screen.lines))

    def resize(self, columns):
        """As a window does it: what was written before it is on the screen by then."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise AssertionError("the program ended before the resize")
        self.drain()
        self.screen.resize(columns)
        set_size(self.terminal, columns)
        self.process.send_signal(signal.SIGCONT)

    def drain(self):
        """What was written is handed on when the system likes, but in order: until a mark comes."""
        side = os.open(self.name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        rest = MARK.encode()
        deadline = time.monotonic() + 60
        self.marked = False
        while not self.marked:
            if time.monotonic() > deadline:
                raise AssertionError("the mark does not come")
            try:
                rest = rest[os.write(side, rest):] if rest else rest
            except BlockingIOError:  # there is no room, or the program stopped while it wrote
                pass
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.take()
        os.close(side)

    def take(self):
        some = os.read(self.terminal, 65536)
        text = self.decoder.decode(some)
        self.marked = self.marked or MARK in text
        text = text.replace(MARK, "")  # wherever the program was when it came
        self.raw += text
        self.screen.feed(text)
        return some

    def end(self):
        self.read()
        code = self.process.wait(60)
        os.close(self.terminal)
        return code


class Terminal(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-terminal-"))
        os.environ["XDG_CACHE_HOME"] = str(cls.root / "cache")
        cls.tiny = cls.root / "tiny"
        cls.wide = cls.root / "wide"
        for arguments in ([cls.tiny, "--like", "tiny"],
                          [cls.wide, "--layers", 6, "--hidden", 1024, "--intermediate", 4096,
                           "--heads", 16, "--vocab", 4096]):
            subprocess.run([SPILLWAY, "synth", *map(str, arguments)], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def streaming(self, tokens, *more, ram="96MiB"):
        """Two prompts over a model that is read anew for each token: there is progress to show."""
        return ["run", self.wide, "--ram", ram, "--device", "host", "-p", "One", "-p", "Two",
                "-n", tokens, "--set", "generate.ignore_eos=true", *more]

    def nothing_left(self, screen):
        for line in screen.lines:
            self.assertIsNone(PROGRESS.search(line), "\n".join(screen.lines))

    def test_progress_fits_any_width(self):
        for columns in (20, 40, 80, 200):
            with self.subTest(columns=columns):
                run = OnTerminal(self.streaming(6), columns=columns)
                self.assertEqual(run.end(), 0, run.raw)
                self.assertGreater(run.screen.progress_lines, 0)
                self.assertLess(run.screen.widest_progress, columns)
                self.nothing_left(run.screen)

    def test_tables_fit_eighty_columns(self):
        run = OnTerminal(self.streaming(3))
        self.assertEqual(run.end(), 0, run.raw)
        tables = run.screen.lines[[i for i, l in enumerate(run.screen.lines)
                                   if l.startswith("phase")][0]:]
        self.assertGreater(len(tables), 2)
        for line in tables:
            self.assertLessEqual(len(line), 80, line)
        run = OnTerminal(["plan", self.wide, "--ram", "96MiB"])
        self.assertEqual(run.end(), 0, run.raw)
        for line in run.screen.lines:
            if not line.startswith("note:"):
                self.assertLessEqual(len(line), 80, line)

    def test_progress_follows_a_resize(self):
        for before, after in ((120, 40), (40, 120), (80, 33)):
            with self.subTest(before=before, after=after):
                run = OnTerminal(self.streaming(48), columns=before)
                self.assertFalse(run.read(lambda s: any("/96 tokens" in l for l in s.lines)), run.raw)
                run.resize(after)
                # What was on its way at the resize comes before the first line that fits.
                self.assertFalse(run.read(lambda s: s.last_progress < after), run.raw)
                run.screen.widest_progress = 0
                seen = run.screen.progress_lines
                self.assertEqual(run.end(), 0, run.raw)
                self.assertGreater(run.screen.progress_lines, seen)
                self.assertLess(run.screen.widest_progress, after)
                self.nothing_left(run.screen)

    def test_colour(self):
        bold = OnTerminal(self.streaming(2))
        self.assertEqual(bold.end(), 0)
        self.assertGreater(bold.screen.colours, 0)
        plain = OnTerminal(self.streaming(2), NO_COLOR="1")
        self.assertEqual(plain.end(), 0)
        self.assertEqual(plain.screen.colours, 0)
        self.assertGreater(plain.screen.progress_lines, 0)

    def test_a_dumb_terminal_gets_no_escapes(self):
        for term in ("dumb", ""):
            with self.subTest(term=term):
                run = OnTerminal(self.streaming(2), term=term)
                self.assertEqual(run.end(), 0, run.raw)
                self.assertNotIn("\x1b", run.raw)

    def test_files_get_no_escapes(self):
        with open(self.root / "out", "wb") as out, open(self.root / "err", "wb") as err:
            both = OnTerminal(self.streaming(2), stdout=out, stderr=err)
            self.assertEqual(both.end(), 0)
        self.assertNotIn(b"\x1b", (self.root / "out").read_bytes() + (self.root / "err").read_bytes())
        with open(self.root / "out", "wb") as out:
            answer = OnTerminal(self.streaming(2), stdout=out)
            self.assertEqual(answer.end(), 0)
        self.assertNotIn(b"\x1b", (self.root / "out").read_bytes())
        self.assertGreater(answer.screen.progress_lines, 0)
        self.nothing_left(answer.screen)

    def test_one_answer_stands_where_the_progress_was(self):
        arguments = ["run", self.wide, "--ram", "96MiB", "--device", "host", "-p", "One", "-n", 40,
                     "--set", "generate.ignore_eos=true"]
        expected = subprocess.run([SPILLWAY, *map(str, arguments), "--json"], check=True,
                                  capture_output=True, text=True)
        text = json.loads(expected.stdout)["outputs"][0]["text"]
        run = OnTerminal(arguments)
        self.assertEqual(run.end(), 0, run.raw)
        self.nothing_left(run.screen)
        for c in range(32):
            if chr(c) not in "\n\t":
                text = text.replace(chr(c), f"\\x{c:02x}")
        text = text.replace("\x7f", "\\x7f").replace("\t", "\t")
        self.assertIn(text, "\n".join(run.screen.lines))

    # Answers as they are made

    def events(self, *more, **options):
        return subprocess.Popen([SPILLWAY, *map(str, ["run", self.tiny, "--device", "host", *more])],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def test_tokens_appear_while_others_are_made(self):
        run = subprocess.Popen([SPILLWAY, *map(str, self.streaming(600, "--json-lines",
                                                                   ram="128MiB"))],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        events = [json.loads(run.stdout.readline()) for _ in range(5)]
        self.assertEqual([e["event"] for e in events], ["start"] + ["token"] * 4)
        self.assertIsNone(run.poll())  # 600 tokens take a minute
        run.send_signal(signal.SIGINT)
        events += [json.loads(line) for line in run.stdout]
        self.assertEqual(run.wait(60), 130)
        self.assertEqual(events[-1]["event"], "end")
        self.assertTrue(events[-1]["interrupted"])
        ends = {e["prompt"]: e for e in events if e["event"] == "finish"}
        self.assertEqual({e["finish_reason"] for e in ends.values()}, {"interrupted"})
        for prompt in (0, 1):
            tokens = [e for e in events if e["event"] == "token" and e["prompt"] == prompt]
            self.assertEqual(len(tokens), ends[prompt]["tokens"])
        run.stdout.close()

    def test_the_pieces_are_the_text(self):
        report = self.root / "report.json"
        for prompts in (1, 3):
            arguments = ["-n", 30, "--report", report, "--set", "generate.temperature=2"]
            for i in range(prompts):
                arguments += ["-p", f"Prompt {i}"]
            run = self.events(*arguments, "--json-lines")
            out, err = run.communicate(timeout=120)
            self.assertEqual(run.returncode, 0, err)
            events = [json.loads(line) for line in out.splitlines()]
            outputs = json.loads(report.read_text())["outputs"]
            for i, output in enumerate(outputs):
                mine = [e for e in events if e.get("prompt") == i]
                self.assertEqual("".join(e["text"] for e in mine), output["text"])
                self.assertEqual([e["id"] for e in mine if e["event"] == "token"],
                                 output["output_token_ids"])
                self.assertEqual(mine[-1]["finish_reason"], output["finish_reason"])
            run = self.events(*arguments, "--quiet")
            out, err = run.communicate(timeout=120)
            self.assertEqual(err, "")
            if prompts == 1:
                self.assertEqual(out, outputs[0]["text"] + "\n")
            else:
                for i, output in enumerate(outputs):
                    self.assertIn(f"--- prompt {i + 1} ({output['finish_reason']})\n{output['text']}\n",
                                  out)

    def test_a_reader_that_sleeps_does_not_hold_a_stop(self):
        report = self.root / "slow.json"
        run = self.events("-p", "One", "-n", 1000, "--json-lines", "--report", report, "--set",
                          "generate.ignore_eos=true")
        fcntl.fcntl(run.stdout, 1031, 4096)  # F_SETPIPE_SZ
        seen = b""
        while b'"token"' not in seen:
            seen += os.read(run.stdout.fileno(), 4096)
        self.assertTrue(select.select([run.stdout], [], [], 60)[0])  # an event fills a pipe of a page
        run.send_signal(signal.SIGINT)
        self.assertIn(run.wait(60), (1, 130))
        run.stdout.close()
        run.stderr.close()
        data = json.loads(report.read_text())
        self.assertTrue(data["interrupted"])
        self.assertGreater(len(data["outputs"][0]["output_token_ids"]), 0)

    def test_the_report_is_kept_before_it_is_printed(self):
        for command in (["run", str(self.tiny), "-p", "One", "-n", "200"],
                        ["score", str(self.tiny), "--text-file", __file__]):
            with self.subTest(command=command[0]):
                report = self.root / f"kept-{command[0]}.json"
                reader, writer = os.pipe()
                fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
                run = subprocess.Popen([SPILLWAY, *command, "--device", "host", "--json", "--report",
                                        str(report), "--set", "score.logprobs=true"],
                                       stdout=writer, stderr=subprocess.DEVNULL)
                os.close(writer)
                seen = os.read(reader, 1)
                whole = report.read_bytes()
                self.assertGreater(len(whole), 8192)
                self.assertTrue(whole.startswith(seen))
                run.send_signal(signal.SIGTERM)  # and nobody reads the rest
                self.assertIn(run.wait(60), (1, 130))
                os.close(reader)
                self.assertEqual(report.read_bytes(), whole)

    def test_streams_that_nobody_reads_hold_no_stop(self):
        def asleep(name):
            os.mkfifo(self.root / name)
            reader = os.open(self.root / name, os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(reader, 1031, 4096)  # F_SETPIPE_SZ
            return reader
        report = asleep("sleeping-report")
        run = subprocess.Popen([SPILLWAY, "run", str(self.tiny), "--device", "host", "-p", "One", "-n",
                                "300", "--set", "generate.ignore_eos=true", "--report",
                                str(self.root / "sleeping-report")], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
        self.assertTrue(select.select([report], [], [], 60)[0])  # it is being written
        run.send_signal(signal.SIGINT)
        self.assertIn(run.wait(60), (1, 130))
        run.stdout.close()
        os.close(report)
        for arguments in (["synth", self.root / "asleep", "--like", "tiny"],
                          ["init", self.tiny, "-o", self.root / "asleep.yaml"]):
            with self.subTest(command=arguments[0]):
                reader, writer = os.pipe()
                fcntl.fcntl(writer, 1031, 4096)
                os.write(writer, b"x" * 4096)
                run = subprocess.Popen([SPILLWAY, *map(str, arguments)], stdout=writer,
                                       stderr=subprocess.DEVNULL)
                os.close(writer)
                last = {"synth": "asleep/model.safetensors", "init": "asleep.yaml"}[arguments[0]]
                while not (self.root / last).exists():  # then it says so, to nobody
                    self.assertIsNone(run.poll())
                    select.select([], [], [], 0.01)
                run.send_signal(signal.SIGINT)
                self.assertIn(run.wait(60), (1, 130))
                os.close(reader)

    def test_json_cannot_move_the_cursor(self):
        for more in ("--json", "--json-lines"):
            run = OnTerminal(["run", self.tiny, "--device", "host", "-p", "k\u00e4se\u009b31m\u202e", "-n", 40,
                              "--quiet", more])
            self.assertEqual(run.end(), 0, run.raw)
            self.assertTrue(run.raw.isascii(), run.raw)

    def test_a_terminal_that_sleeps_does_not_hold_a_stop(self):
        terminal, side = pty.openpty()
        filler = os.open(os.ttyname(side), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        report = self.root / "asleep.json"
        run = subprocess.Popen([SPILLWAY, "run", str(self.tiny), "--device", "host", "-p", "One", "-n",
                                "1000", "--json-lines", "--report", str(report), "--set",
                                "generate.ignore_eos=true"], stdout=side, stderr=subprocess.PIPE,
                               text=True)
        os.close(side)
        seen = b""
        while b'"token"' not in seen:
            seen += os.read(terminal, 4096)
        for _ in range(20):  # the system takes some more when it has moved what it took
            try:
                while True:
                    os.write(filler, b"x")
            except BlockingIOError:
                select.select([], [filler], [], 0.02)
        os.close(filler)
        run.send_signal(signal.SIGINT)
        self.assertIn(run.wait(60), (1, 130))
        run.stderr.close()
        os.close(terminal)
        self.assertGreater(len(json.loads(report.read_text())["outputs"][0]["output_token_ids"]), 0)

    def test_a_full_disk_does_not_lose_what_the_report_holds(self):
        report = self.root / "full.json"
        with open("/dev/full", "wb") as full:
            run = subprocess.run([SPILLWAY, "run", str(self.tiny), "--device", "host", "-p", "One", "-n",
                                  "20", "--set", "generate.ignore_eos=true", "--report", str(report)],
                                 stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        self.assertEqual(run.returncode, 1)
        self.assertIn("cannot write to stdout", run.stderr)
        data = json.loads(report.read_text())
        self.assertEqual(len(data["outputs"][0]["output_token_ids"]), 20)
        self.assertNotIn("error", data)

    def test_a_reader_that_leaves_ends_the_run(self):
        run = subprocess.Popen([SPILLWAY, *map(str, self.streaming(600, "--json-lines",
                                                                   ram="128MiB"))],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        run.stdout.readline()
        run.stdout.close()
        error = run.stderr.read()  # to its end, which would take a minute
        self.assertEqual(run.wait(60), 1)
        self.assertIn("spillway: cannot write to stdout: ", error)
        run.stderr.close()


if __name__ == "__main__":
    SPILLWAY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
