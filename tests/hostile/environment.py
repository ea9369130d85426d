"""Places, limits and permissions a process may find itself with."""
import errno
import json
import itertools
import os
import shutil
import subprocess

import faults
from box import KIB, MIB, NOBODY

BAD = (1,)
ANY = (0, 1)
GOOD = (0,)


def run_with(expect=GOOD, says=(), command="run", kind="tiny", sets=(), one_line=True, **options):
    """The command on a tiny model in some environment; options are those of Box.start."""
    def body(box):
        given = {key: value(box) if callable(value) and key != "preexec" else value
                 for key, value in options.items()}
        box.spillway(*command_of(box, command, kind, sets), expect=expect, says=says,
                     one_line=one_line, **given)
    return body


def command_of(box, command, kind="tiny", sets=()):
    model = box.world.models[kind]
    words = [word for text in sets for word in ("--set", text)]
    if command == "run":
        return ["run", box.config(model), "--quiet", *words]
    if command == "nvme":
        return ["run", box.config(model, placement={"policy": "nvme"}), "--quiet", *words]
    if command == "score":
        return ["score", box.config(model), "--quiet", "--token-ids-file",
                box.write("ids.json", "[1, 2, 3, 4]"), *words]
    if command == "plan":
        return ["plan", box.config(model), *words]
    if command == "inspect":
        return ["inspect", model, "--verify"]
    if command == "tokenize":
        return ["tokenize", model, "--text", "Hello"]
    raise ValueError(command)


COMMANDS = ("run", "nvme", "score", "plan", "inspect", "tokenize")


def closed(*descriptors):
    def close():
        for descriptor in descriptors:
            os.close(descriptor)
    return close


def with_outputs(box, command, options=("report", "trace")):
    """(words, names of the files) of a command, with its report and its trace if it has any."""
    words = command_of(box, command)
    if command not in ("run", "nvme", "score"):
        return words, []
    names = [f"{option}.json" for option in options]
    for option, name in zip(options, names):
        words += [f"--{option}", box.folder / name]
    return words, names


def closed_streams_case(command, descriptors, expect):
    """Files that are opened next get the numbers of the closed streams: nothing may be written into
    them by a print."""
    def body(box):
        words, outputs = with_outputs(box, command)
        box.spillway(*words, outputs=outputs, expect=expect, one_line=2 not in descriptors,
                     preexec=closed(*descriptors), stdin=None)
        for name in outputs:
            json.loads((box.folder / name).read_bytes())
    return body


def full_stdout_case(command):
    def body(box):
        words, outputs = with_outputs(box, command, ["report"])
        with open("/dev/full", "wb") as full:
            box.spillway(*words, stdout=full, outputs=outputs, expect=BAD)
        if outputs:
            box.report(text=command == "run")
    return body


def broken_pipe_case(command):
    def body(box):
        words, outputs = with_outputs(box, command)
        reading, writing = os.pipe()
        os.close(reading)
        box.spillway(*words, stdout=writing, outputs=outputs, expect=ANY)
        os.close(writing)
        if outputs:
            box.report(text=command == "run")
            json.loads((box.folder / "trace.json").read_bytes())
    return body


def full_stderr_case(target):
    def body(box):
        with open(target, "wb") as stream:
            box.spillway(*command_of(box, "run"), stderr=stream, expect=ANY, one_line=False)
            box.spillway("run", box.folder / "none.yaml", stderr=stream, expect=BAD, one_line=False)
    return body


def cwd_deleted(box):
    def leave():
        gone = box.folder / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    for command in COMMANDS:
        box.spillway(*command_of(box, command), preexec=leave)
    box.spillway("run", "run.yaml", expect=BAD, preexec=leave)
    box.spillway("bench", box.config(box.world.models["tiny"]), "--quiet", expect=BAD,
                 preexec=leave)


def read_only_place(box):
    """The folder of the report belongs to another user."""
    model = box.model()
    config = box.config(model)
    locked = box.folder / "locked"
    locked.mkdir(mode=0o755)
    for arguments in (["run", config, "--quiet", "--report", locked / "r.json"],
                      ["run", config, "--quiet", "--trace", locked / "t.json"],
                      ["synth", locked / "new", "--like", "tiny"],
                      ["bench", config, "--quiet", "--out", locked / "bench"]):
        box.spillway(*arguments, user=NOBODY, expect=BAD, says="ermission")


def probe_case(expect, env, says=(), outputs=(), prepare=None):
    def body(box):
        if prepare:
            prepare(box)
        changed = {key: value.format(box=box.folder) if value else value
                   for key, value in env.items()}
        box.spillway("probe", "--path", box.world.drive, "--seconds", "0.01", "--quiet",
                     "--device", "host", env=changed, expect=expect, says=says, outputs=outputs)
    return body


def bench_case(expect=GOOD, **options):
    def body(box):
        given = {key: value(box) if key == "preexec" and getattr(value, "needs_box", False)
                 else value for key, value in options.items()}
        box.spillway("bench", box.config(box.world.models["tiny"]), "--quiet", "--out",
                     box.folder / "bench", "--repeats", 1, "--shares", "50", "--batches", 1,
                     "--memory-points", 1, "--tokens", 1, "--prompt-tokens", 4, outputs=["bench"],
                     expect=expect, **given)
        json.loads((box.folder / "bench" / "bench.json").read_bytes())
    return body


def group_case(limit_bytes, expect, command="run", sets=(), kind="tiny", says=()):
    def body(box):
        join = faults.memory_group(box, limit_bytes)
        box.spillway(*command_of(box, command, kind, sets), preexec=join, expect=expect, says=says)
    return body


def tmpfs_model(box):
    """A file system without O_DIRECT: a note, and an answer; `direct: on` is an error."""
    mount = faults.small_file_system(box, "ram", "size=8m")
    shutil.copytree(box.world.models["tiny"], mount / "model")
    config = box.config(mount / "model", placement={"policy": "nvme"})
    box.spillway("run", config, "--quiet")
    box.spillway("run", config, "--quiet", "--set", "io.direct=on", expect=ANY)
    box.spillway("inspect", mount / "model", "--verify")


def cases(_):
    yield from streams()
    yield from places()
    yield from limits()
    yield from seccomp()
    for command in ("run", "nvme", "score"):
        yield f"one-core/{command}", run_with(command=command, preexec=faults.one_core())
    for mib, expect in ((8, ANY), (32, ANY), (64, ANY), (128, GOOD), (300, GOOD), (540, GOOD)):
        yield f"group/{mib}MiB-auto", group_case(mib * MIB, (*expect, -9) if mib < 64 else expect,
                                                 sets=["memory.ram=auto"])
        yield f"group/{mib}MiB-plan", group_case(mib * MIB, (*expect, -9) if mib < 64 else expect,
                                                 "plan", ["memory.ram=auto"])
    yield "group/budget-above-group", group_case(128 * MIB, BAD, sets=["memory.ram=1GiB"])
    yield "group/budget-above-group-plan", group_case(128 * MIB, GOOD, "plan", ["memory.ram=1GiB"])
    yield "group/score", group_case(128 * MIB, GOOD, "score", ["memory.ram=32MiB"])
    yield "group/mmap", group_case(128 * MIB, GOOD, "nvme", ["io.engine=mmap", "memory.ram=32MiB"])
    yield "tmpfs-model", tmpfs_model


def streams():
    for command in COMMANDS:
        yield f"closed/stdin-{command}", closed_streams_case(command, (0,), GOOD)
        yield f"closed/stdout-{command}", closed_streams_case(command, (1,), BAD)
        yield f"closed/stderr-{command}", closed_streams_case(command, (2,), GOOD)
        yield f"closed/all-{command}", closed_streams_case(command, (0, 1, 2), BAD)
        yield f"full/stdout-{command}", full_stdout_case(command)
        yield f"pipe/stdout-{command}", broken_pipe_case(command)
    for name, arguments in {"help": ["--help"], "version": ["--version"], "run-help":
                            ["run", "--help"]}.items():
        def body(box, arguments=arguments):
            with open("/dev/full", "wb") as full:
                box.spillway(*arguments, stdout=full, expect=BAD)
        yield f"full/stdout-{name}", body
    yield "full/stderr", full_stderr_case("/dev/full")
    yield "stdin/folder", run_with(stdin=lambda box: os.open(box.folder, os.O_RDONLY))
    yield "stderr/null", run_with(stderr=subprocess.DEVNULL, one_line=False)


def places():
    for name, env in {
            "none": {"HOME": None, "XDG_CACHE_HOME": None}, "home-only": {"XDG_CACHE_HOME": None},
            "home-empty": {"HOME": "", "XDG_CACHE_HOME": ""}, "home-missing":
            {"HOME": "/nonexistent", "XDG_CACHE_HOME": None}, "home-relative":
            {"HOME": ".", "XDG_CACHE_HOME": "x"}, "home-file": {"HOME": "/etc/passwd",
                                                                "XDG_CACHE_HOME": None},
            "home-device": {"XDG_CACHE_HOME": "/dev/null"}, "home-long": {"HOME": "/x" * 5000,
                                                                          "XDG_CACHE_HOME": None},
            "home-newline": {"XDG_CACHE_HOME": "/tmp/a\nb"}, "tmp-missing": {"TMPDIR": "/none"},
            "tmp-file": {"TMPDIR": "/etc/passwd"}, "tmp-null": {"TMPDIR": "/dev/null"},
            "lang-none": {"LANG": None}, "lang-c": {"LANG": "C", "LC_ALL": "C"},
            "lang-odd": {"LC_ALL": "xx_YY.UTF-7"}, "lang-comma": {"LC_ALL": "de_DE.UTF-8",
                                                                  "LC_NUMERIC": "de_DE.UTF-8"},
            "path-none": {"PATH": None}, "empty": {"PATH": None, "LANG": None, "HOME": None,
                                                   "TMPDIR": None, "XDG_CACHE_HOME": None},
            "columns": {"COLUMNS": "-5", "TERM": "", "LINES": "x"},
            "onednn-verbose-off": {"DNNL_VERBOSE": "0", "ONEDNN_MAX_CPU_ISA": "SSE41"},
            "omp": {"OMP_NUM_THREADS": "1000", "TBB_NUM_THREADS": "x"},
            "1MB": {"X": "x" * 100_000}}.items():
        for command in ("run", "plan"):
            yield f"env/{name}-{command}", run_with(command=command, env=env)
    yield "cwd/deleted", cwd_deleted
    yield "cwd/root", run_with(cwd="/")
    yield "cwd/proc", run_with(cwd="/proc/self")
    yield "user/other", run_with(user=NOBODY)
    yield "user/other-nvme", run_with(user=NOBODY, command="nvme")
    yield "user/read-only-places", read_only_place
    yield "probe/no-home", probe_case(BAD, {"HOME": None, "XDG_CACHE_HOME": None}, "--out")
    yield "probe/cache-is-file", probe_case(BAD, {"XDG_CACHE_HOME": "{box}/bystander"})
    yield "probe/cache-is-device", probe_case(BAD, {"XDG_CACHE_HOME": "/dev/null"})
    yield "probe/cache-is-made", probe_case(GOOD, {"XDG_CACHE_HOME": "{box}/a/b"}, outputs=["a"])
    yield "probe/file-size-limit", run_probe_limited
    yield "bench/no-path", bench_case(env={"PATH": None})
    yield "bench/other-user", bench_case(user=NOBODY)
    yield "bench/one-core", bench_case(preexec=faults.one_core())


def run_probe_limited(box):
    """The temporary file of the probe may not grow: one line, and no file left."""
    box.spillway("probe", "--path", box.model(), "--seconds", "0.01", "--quiet", "--device", "host",
                 preexec=faults.limit("FSIZE", 16 * MIB), expect=BAD)


def limits():
    for count in (3, 4, 5, 6, 8, 10, 16, 32):
        for command in ("run", "nvme", "inspect", "plan"):
            expect = BAD if count == 3 else GOOD if count == 32 else ANY
            # The loader of the program itself needs a descriptor.
            expect = (127, *expect) if count == 3 else expect
            yield f"files/{count}-{command}", run_with(
                expect, command=command, preexec=faults.limit("NOFILE", count), one_line=count > 3)
    for mib in (40, 60, 80, 100, 150, 250, 400, 700, 1200, 2000):
        for command in ("run", "nvme", "score"):
            yield f"address-space/{mib}MiB-{command}", run_with(
                (0, 1, 127), command=command, sets=["memory.ram=64MiB"], one_line=mib >= 100,
                preexec=faults.limit("AS", mib * MIB))
    for mib in (1, 16, 64):
        yield f"data/{mib}MiB", run_with(ANY, preexec=faults.limit("DATA", mib * MIB), one_line=False)
    for kib in (64, 128, 256, 1024, 8192, 1 << 20):
        yield f"stack/{kib}KiB", run_with(GOOD if kib >= 1024 else ANY,
                                          preexec=faults.limit("STACK", kib * KIB))
    for kib in (0, 4, 64, 1024):
        for command in ("nvme", "inspect"):
            yield f"locked-memory/{kib}KiB-{command}", run_with(
                command=command, user=NOBODY, preexec=faults.limit("MEMLOCK", kib * KIB))
    for size in (0, 1, 100, 4096):
        def body(box, size=size):
            box.spillway(*command_of(box, "run"), "--report", box.folder / "r.json",
                         outputs=["r.json"], preexec=faults.limit("FSIZE", size),
                         stdout=subprocess.PIPE, expect=BAD if size < 4096 else ANY,
                         says="r.json" if size < 4096 else ())
            left = box.folder / "r.json"
            if size == 4096 and left.exists() and left.stat().st_size:
                return
        yield f"file-size/report-{size}", body
    for size in (0, 100, 100 * KIB):
        def synth(box, size=size):
            box.spillway("synth", box.folder / "new", "--like", "tiny", expect=BAD,
                         preexec=faults.limit("FSIZE", size))
        yield f"file-size/synth-{size}", synth
    # The limit is on all threads of a user: a user for each case, of each driver.
    users = itertools.count(NOBODY + 1 + os.getpid() % 80 * 50)
    for count in (1, 2, 3, 4, 5, 6):
        for command in ("run", "nvme", "inspect"):
            expect = GOOD if count > 5 else ANY
            yield f"threads/{count}-{command}", run_with(
                expect, command=command, user=next(users), preexec=faults.limit("NPROC", count))
        yield f"threads/{count}-pread", run_with(
            ANY, command="nvme", sets=["io.engine=pread"], user=next(users),
            preexec=faults.limit("NPROC", count))
    yield "cpu-time/20s", run_with(ANY, preexec=faults.limit("CPU", 20))
    yield "core/0", run_with(preexec=faults.limit("CORE", 0))


def seccomp():
    for calls in (("setup",), ("enter",), ("register",), ("enter", "register"),
                  ("setup", "enter", "register")):
        for error in (errno.EPERM, errno.ENOSYS, errno.EBUSY, errno.EINVAL, errno.ENOMEM):
            if error in (errno.EINVAL, errno.ENOMEM) and len(calls) > 1:
                continue
            name = "+".join(calls) + "-" + errno.errorcode[error]
            filter_ = faults.refuse_io_uring(calls, error)
            for command in ("nvme", "inspect"):
                yield f"seccomp/{name}-{command}", run_with(command=command, preexec=filter_)
            yield f"seccomp/{name}-asked", run_with(
                ANY if calls == ("register",) else BAD, command="nvme",
                sets=["io.engine=io_uring"], preexec=filter_)
    yield "seccomp/probe", run_seccomp_probe
    for name, number in {"sched_setaffinity": 203, "madvise": 28, "fallocate": 285, "statx": 332,
                         "getrandom": 318, "memfd_create": 319, "sched_getaffinity": 204,
                         "prctl": 157, "mlock": 149, "sysinfo": 99}.items():
        yield f"seccomp/{name}", run_with(ANY, command="nvme",
                                          preexec=faults.refuse_syscalls([number], errno.EPERM))
    yield "seccomp/no-threads", run_with(
        ANY, command="nvme", preexec=faults.refuse_syscalls([56, 435], errno.EAGAIN))


def run_seccomp_probe(box):
    box.spillway("probe", "--path", box.world.drive, "--seconds", "0.01", "--quiet",
                 "--device", "host", "--out", box.folder / "p.json", outputs=["p.json"],
                 preexec=faults.refuse_io_uring(("setup", "enter", "register")))
