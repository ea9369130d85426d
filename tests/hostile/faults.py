"""What the system can do to a process before it starts: limits, other users, seccomp filters, control
groups, small file systems. Each returns a function for Box.start(preexec=...), or raises Skip."""
import ctypes
import errno
import os
import pathlib
import resource
import struct
import subprocess

from box import Skip

LIBC = ctypes.CDLL(None, use_errno=True)
IO_URING = {"setup": 425, "enter": 426, "register": 427}


def limit(kind, value):
    number = getattr(resource, "RLIMIT_" + kind)
    return lambda: resource.setrlimit(number, (value, value))


def one_core():
    core = min(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {core})


def both(*actions):
    def run():
        for action in actions:
            action()
    return run


def refuse_syscalls(numbers, error):
    """A seccomp filter that answers some system calls with an error and lets all others through."""
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the number
    for number in numbers:
        code.append(struct.pack("HBBI", 0x15, 0, 1, number))  # not this one: skip the refusal
        code.append(struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | error))
    code.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))

    def install():
        keep = program  # the kernel reads it here
        if LIBC.prctl(38, 1, 0, 0, 0) != 0 or LIBC.prctl(22, 2, header, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no seccomp filter can be installed")
        assert keep is not None

    return install


def refuse_io_uring(calls, error=errno.EPERM):
    return refuse_syscalls([IO_URING[call] for call in calls], error)


def memory_group(box, limit_bytes):
    """A memory control group (v1 or v2) of this size, joined by the process."""
    parent = pathlib.Path("/sys/fs/cgroup/memory")
    names = ("memory.limit_in_bytes",)
    if not parent.is_dir():
        parent, names = pathlib.Path("/sys/fs/cgroup"), ("memory.max", "memory.swap.max")
    group = parent / f"spillway-hostile-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
        (group / names[0]).write_text(str(limit_bytes))
        if len(names) > 1:
            (group / names[1]).write_text("0")
    except OSError as error:
        raise Skip(f"no memory control group can be made: {error}") from None

    def remove():
        for child in group.glob("spillway-bench-*"):
            child.rmdir()
        group.rmdir()

    box.cleanups.append(remove)
    return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


def small_file_system(box, name, options="size=64k"):
    """A tmpfs in the case's folder; its content is not part of what the case compares."""
    mount = box.folder / name
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", mount],
                      capture_output=True).returncode:
        raise Skip("no tmpfs can be mounted")
    box.cleanups.append(lambda: subprocess.run(["umount", "-l", mount], check=True))
    return mount


def node(path, major, minor):
    """A character device node; only root can make one."""
    try:
        os.mknod(path, 0o020666, os.makedev(major, minor))
        os.chmod(path, 0o666)
    except OSError as error:
        raise Skip(f"no device node can be made: {error}") from None
    return path
