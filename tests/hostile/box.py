"""A case's folder and what must hold in it. Every start of the program goes through Box.start(), and
every end through Running.wait(), which checks for every case alike: no input or bystander changed,
no hang, no death by a signal of its own, one line per error, the expected exit code, nothing left
behind. A case only says what is particular to it."""
import collections
import dataclasses
import glob
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import subprocess
import time

HANG_SECONDS = 60
KIB = 1024
MIB = 1024 * KIB
NOBODY = 61234  # a user whose processes are all ours, so that its limits are too
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What a long command may print beside errors: lines of progress, every ten seconds.
PROGRESS = re.compile(
    r"^(probing: |reading |writing |loading |prompt: |resident |timeline |\d+/\d+[ :]|\d+ arms, |"
    r"each finished round )")
OWN_FAULTS = ("internal error", "terminate called", "CHECK failed", "Sanitizer", "core dumped",
              "exit code 132", "exit code 134", "exit code 135", "exit code 136", "exit code 139",
              "std::", "basic_string", "vector::", "[json.exception", "map::at")


class Failure(Exception):
    """A property does not hold."""


class Skip(Exception):
    """The machine cannot do what the case needs."""


def fingerprint(path):
    """What a file is and holds. Device nodes and FIFOs are never opened; of large files, the ends."""
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFLNK:
        return ("link", os.readlink(path))
    if kind == stat.S_IFDIR:
        return ("folder", stat.S_IMODE(info.st_mode))
    if kind != stat.S_IFREG:
        return ("special", kind, info.st_rdev)
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        if info.st_size <= 64 * MIB:
            digest.update(file.read())
        else:
            digest.update(file.read(MIB))
            file.seek(-MIB, os.SEEK_END)
            digest.update(file.read() + repr(info.st_mtime_ns).encode())
    return ("file", info.st_size, stat.S_IMODE(info.st_mode), digest.hexdigest())


def snapshot(root):
    """path → fingerprint of everything below a folder; links are not followed."""
    found = {}
    waiting = collections.deque([os.fsencode(root)])
    while waiting:
        folder = waiting.popleft()
        for entry in os.scandir(folder):
            found[entry.path] = fingerprint(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found


def is_below(path, folders):
    return any(path == folder or path.startswith(folder + b"/") for folder in folders)


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str
    seconds: float

    def json(self):
        return json.loads(self.out)


class Running:
    """One process of the program, from start to the check of its end."""

    def __init__(self, box, process, before, outputs):
        self.box = box
        self.process = process
        self.before = before
        self.outputs = outputs
        self.sent = []
        self.began = time.monotonic()
        self.stop_sent = 0.0

    def edit(self, action, *paths):
        """Damage done by the case itself while the program runs."""
        action()
        for path in paths:
            key = os.fsencode(path)
            self.before.pop(key, None)
            if os.path.lexists(key):
                self.before[key] = fingerprint(key)

    def send(self, number):
        self.sent.append(number)
        if number in STOPS and self.stop_sent == 0:
            self.stop_sent = time.monotonic()
        try:
            self.process.send_signal(number)
        except ProcessLookupError:
            pass

    def alive(self):
        return self.process.poll() is None

    def until(self, condition, seconds=30):
        """Waits for a condition of the process; False when it ended or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.alive():
            if condition():
                return True
            time.sleep(0.002)
        return False

    def listening(self):
        """The program's own handling of signals is in place: handled, blocked or ignored."""
        return self.until(lambda: self.signal_mask() & (1 << (signal.SIGTERM - 1)))

    def signal_mask(self):
        mask = 0
        try:
            for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().split("\n"):
                if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:")):
                    mask |= int(line.split()[1], 16)
        except OSError:
            pass
        return mask

    def bytes_read(self):
        try:
            text = pathlib.Path(f"/proc/{self.process.pid}/io").read_text()
        except OSError:
            return 0
        values = dict(line.split(": ") for line in text.strip().split("\n"))
        return max(int(values["rchar"]), int(values["read_bytes"]))

    def after_reading(self, count):
        """Waits until so many bytes more were read: the drive's count shows how far passes are."""
        if not self.until(lambda: self.bytes_read() >= count):
            raise Failure(f"ended before it had read {count} bytes: {self.peek()}")

    def peek(self):
        return f"exit code {self.process.poll()}"

    def wait(self, expect=(0,), says=(), one_line=True):
        try:
            out, err = self.process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            where = self.where_it_hangs()
            self.process.kill()
            self.process.communicate()
            raise Failure(f"hangs for {HANG_SECONDS} s{where}") from None
        now = time.monotonic()
        self.box.end_helpers()
        if self.stop_sent:
            self.box.slowest_stop = max(self.box.slowest_stop, now - self.stop_sent)
        result = Result(self.process.returncode, (out or b"").decode(errors="replace"),
                        (err or b"").decode(errors="replace"), now - self.began)
        failures = []
        for check in (self.check_files, self.check_children, self.check_groups,
                      lambda: self.check_end(result, expect, says, one_line)):
            try:
                check()
            except Failure as failure:
                failures.append(str(failure))
        if failures:
            raise Failure("; ".join(failures))
        return result

    def where_it_hangs(self):
        try:
            return " in " + pathlib.Path(f"/proc/{self.process.pid}/wchan").read_text()
        except OSError:
            return ""

    # The properties

    def check_end(self, result, expect, says, one_line):
        expect = (expect,) if isinstance(expect, int) else tuple(expect)
        shown = f"exit code {result.code}, stderr: {result.err[:2000]!r}"
        killed = result.code == -9 and (signal.SIGKILL in self.sent or -9 in expect)  # or by memory
        if result.code < 0 and not killed:
            name = signal.Signals(-result.code).name
            raise Failure(f"died by {name}, stderr: {result.err[:2000]!r}")
        if result.code >= 0 and result.code not in expect:
            raise Failure(f"expected exit code {' or '.join(map(str, expect))}, got {shown}")
        for fault in OWN_FAULTS:
            if fault in result.err:
                raise Failure(f"\"{fault}\" is no message for a person: {shown}")
        lines = [line for line in re.split(r"[\r\n]", result.err.replace("\033[K", ""))
                 if line and not line.startswith(("note: ", "plan: ")) and not PROGRESS.match(line)]
        if one_line and result.code >= 0:
            most = {0: 0, 130: 1}.get(result.code, 1)
            least = 1 if result.code in (1, 2) else 0
            good = least <= len(lines) <= most
            if not good or not all(line.startswith("spillway: ") for line in lines):
                raise Failure(f"expected one line that begins with \"spillway: \": {shown}")
            if any(len(line) > 4000 for line in lines):
                raise Failure(f"a line of {max(map(len, lines))} characters is none for a person")
        for text in (says,) if isinstance(says, str) else says:
            if text not in result.err and text not in result.out:
                raise Failure(f"does not say {text!r}: {shown}")

    def check_children(self):
        """Orphans become this process's own, so that they can be counted."""
        end = time.monotonic() + 5
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0 and time.monotonic() > end:
                break
            time.sleep(0.01 if pid == 0 else 0)
        left = children_of(os.getpid())
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise Failure(f"left {len(left)} process(es) running")

    def check_groups(self):
        if signal.SIGKILL in self.sent:
            return
        for pattern in ("/sys/fs/cgroup/memory/**/spillway-bench-*{}",
                        "/sys/fs/cgroup/**/spillway-bench-*{}"):
            left = glob.glob(pattern.format(self.process.pid), recursive=False)
            if left:
                for group in left:
                    os.rmdir(group)
                raise Failure(f"left the control group {left[0]}")

    def check_files(self):
        after = snapshot(self.box.folder)
        outputs = [os.fsencode(self.box.folder / name) for name in self.outputs]
        for path, was in self.before.items():
            if is_below(path, outputs):
                continue
            if after.get(path) != was:
                now = after.get(path, "nothing")
                raise Failure(f"destroyed {show(path)}: was {was}, is {now}")
        for path in after:
            partial = path.endswith((b".partial", b".tmp")) and path not in self.before
            if partial or (path not in self.before and not is_below(path, outputs)):
                raise Failure(f"left {show(path)} behind")
        self.box.world.check_shared()


def show(path):
    return repr(os.fsdecode(path))


def children_of(parent):
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = pathlib.Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(name))
    return found


class Box:
    """The folder of one case: model, configuration, bystanders, a home and a place for temporary
    files of its own. Removed when the case holds, kept when it fails."""

    def __init__(self, world, name, seed, folder):
        self.world = world
        self.name = name
        self.random = random.Random(f"{seed}/{name}")
        self.folder = folder
        self.slowest_stop = 0.0
        self.commands = []
        self.cleanups = []
        self.helpers = []
        for part in ("home", "cache", "tmp"):
            (folder / part).mkdir(parents=True)
            os.chmod(folder / part, 0o777)
        os.chmod(folder, 0o777)
        (folder / "bystander").write_bytes(self.random.randbytes(1000))

    def close(self):
        for action in reversed(self.cleanups):
            action()

    def end_helpers(self):
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        self.helpers = []

    def fifo(self, name, feed=None, drain=False):
        """A FIFO; with another process that fills or empties it once."""
        path = self.folder / name
        os.mkfifo(path)
        os.chmod(path, 0o666)
        if feed is not None:
            source = self.world.root / f"feed-{os.getpid()}"
            source.write_bytes(feed)
            self.helpers.append(subprocess.Popen(["/bin/sh", "-c", 'exec cat "$1" > "$2"', "sh", source,
                                                  path]))
        if drain:
            self.helpers.append(subprocess.Popen(["/bin/sh", "-c", 'exec cat "$1" > /dev/null', "sh",
                                                  path]))
        return path

    def path(self, name):
        return self.folder / name

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def model(self, kind="tiny", name="model"):
        """A copy of one of the world's models, to be damaged."""
        target = self.folder / name
        shutil.copytree(self.world.models[kind], target)
        return target

    def config(self, model=None, name="run.yaml", **sections):
        values = {"model": {"path": os.fsdecode(model or self.folder / "model")}, "device": "host",
                  "memory": {"ram": "256MiB"}, "compute": {"threads": 2},
                  "generate": {"prompts": ["Hello"], "max_new_tokens": 3, "ignore_eos": True}}
        for key, section in sections.items():
            if isinstance(section, dict):
                values.setdefault(key, {}).update(section)
            else:
                values[key] = section
        return self.write(name, json.dumps(values))  # JSON is YAML

    def start(self, *arguments, outputs=(), env=None, cwd=None, preexec=None, user=None,
              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
                       "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"),
                       "XDG_CACHE_HOME": str(self.folder / "cache")}
        for key, value in (env or {}).items():
            if value is None:
                environment.pop(key, None)
            else:
                environment[key] = value
        command = [self.world.program] + [a if isinstance(a, bytes) else str(a) for a in arguments]
        self.commands.append(command)

        def prepare():
            for number in (*STOPS, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if preexec:
                preexec()
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)

        before = snapshot(self.folder)
        self.world.note_shared()
        process = subprocess.Popen(command, env=environment, cwd=cwd or self.folder, stdin=stdin,
                                   stdout=stdout, stderr=stderr, preexec_fn=prepare)
        return Running(self, process, before, outputs)

    def spillway(self, *arguments, expect=(0,), says=(), one_line=True, **options):
        return self.start(*arguments, **options).wait(expect, says, one_line)

    def report(self, name="report.json", text=False, error=None, interrupted=None):
        """The report exists and is JSON; with text where an answer existed."""
        path = self.folder / name
        try:
            data = json.loads(path.read_bytes())
        except OSError:
            raise Failure(f"the report {name} was lost") from None
        except ValueError as wrong:
            raise Failure(f"the report {name} is not valid JSON: {wrong}") from None
        if text and not any(output.get("output_token_ids") for output in data.get("outputs", [])):
            raise Failure(f"the report {name} has lost the answer that existed")
        if error and not data.get("error"):
            raise Failure(f"the report {name} does not hold the error")
        if interrupted and not data.get("interrupted"):
            raise Failure(f"the report {name} does not say that it was interrupted")
        return data


class World:
    """What all cases share: the program and models synthesised once. Cases change neither."""

    def __init__(self, program, root, data):
        self.root = root
        self.data = data
        os.chmod(root, 0o755)
        self.program = str(root / "spillway")  # where every user can run it
        shutil.copy2(program, self.program)
        os.chmod(self.program, 0o755)
        self.models = {}
        tiny = ("--layers", 2, "--hidden", 64, "--intermediate", 128, "--heads", 4, "--kv-heads", 2,
                "--vocab", 300)
        self.synthesise("tiny", *tiny, "--shards", 2)
        self.synthesise("single", *tiny)
        self.synthesise("slow", "--layers", 4, "--hidden", 384, "--intermediate", 1024, "--heads",
                        6, "--vocab", 1024)
        stories = data / "models" / "stories260K"
        if (stories / "model.safetensors").exists():
            shutil.copytree(stories, root / "stories")
            for path in (root / "stories", *(root / "stories").iterdir()):
                os.chmod(path, 0o755 if path.is_dir() else 0o644)
            self.models["stories"] = root / "stories"
        self.drive = root / "drive"  # with a file that is large enough to measure
        self.drive.mkdir(mode=0o755)
        with open(self.drive / "large", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 256 * MIB)
        os.chmod(self.drive / "large", 0o644)
        self.shared = {}

    def synthesise(self, name, *arguments):
        target = self.root / name
        subprocess.run([self.program, "synth", target, *map(str, arguments)], check=True,
                       stdout=subprocess.DEVNULL)
        self.models[name] = target

    def stamps(self):
        """Cheap: any write would show in size, time or inode."""
        found = {}
        for folder in (*self.models.values(), self.drive):
            for path in folder.iterdir():
                info = path.lstat()
                found[path] = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode)
        return found

    def note_shared(self):
        if not self.shared:
            self.shared = self.stamps()

    def check_shared(self):
        now = self.stamps()
        changed = [path for path in {**now, **self.shared} if now.get(path) != self.shared.get(path)]
        if not changed:
            return
        for path in changed:  # once is enough: the cases after this one are not to blame
            if path not in self.shared:
                path.unlink()
        self.shared = self.stamps()
        raise Failure(f"changed {changed[0]}, which all cases share")
