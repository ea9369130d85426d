"""Signals at seeded random moments of loading, prompts, decoding, scoring, bench, synth, probe and
inspect: the documented exit code, all files, nothing left, in little time."""
import json
import os
import signal
import time

from box import Failure

STOPPED = (0, 130)  # the work may have been over before
NOTHING_YET = "spillway: stopped; there was nothing to keep yet\n"
SIGNALS = {"int": signal.SIGINT, "term": signal.SIGTERM, "hup": signal.SIGHUP}
MOMENTS = 4


def long_run(box, phase, engine="auto"):
    """(arguments, outputs, seconds in which to interrupt)"""
    slow = box.world.models["slow"]
    files = ["--quiet", "--report", box.folder / "report.json", "--trace",
             box.folder / "trace.json"]
    outputs = ["report.json", "trace.json"]
    io = {"engine": engine}
    if phase == "loading":
        config = box.config(slow, placement={"policy": "ram"}, io=io,
                            generate={"prompts": [], "prompt_token_ids": [1, 2],
                                      "max_new_tokens": 4000})
        return ["run", config, *files], outputs, 0.05
    if phase == "prompt":
        config = box.config(slow, placement={"policy": box.random.choice(["ram", "nvme"])}, io=io,
                            generate={"prompts": [], "prompt_token_ids": [[1, 2] * 2000] * 4,
                                      "max_new_tokens": 90, "prefill_chunk": 4096})
        return ["run", config, *files], outputs, 1.5
    if phase == "decode":
        config = box.config(slow, placement={"policy": "nvme"}, io=io,
                            generate={"prompts": [], "prompt_token_ids": [1, 2],
                                      "max_new_tokens": 4000})
        return ["run", config, *files], outputs, 1.0
    if phase == "score":
        ids = box.write("ids.json", json.dumps([[i % 300 for i in range(500)]] * 100))
        config = box.config(slow, placement={"policy": "nvme"}, io=io, score={"chunk": 512})
        return ["score", config, "--token-ids-file", ids, *files], outputs, 1.5
    if phase == "inspect":
        return ["inspect", slow, "--verify"], [], 0.05
    if phase == "synth":
        return ["synth", box.folder / "new", "--like", "tiny", "--layers", 60, "--shards", 5], \
            ["new"], 0.4
    if phase == "bench":
        config = box.config(slow)
        return ["bench", config, "--quiet", "--repeats", 2, "--shares", "100,0", "--batches", 1,
                "--memory-points", 2, "--tokens", 20, "--prompt-tokens", 64, "--out",
                box.folder / "bench"], ["bench"], 4.0
    if phase == "probe":
        return ["probe", "--path", box.world.drive, "--seconds", "0.02", "--quiet", "--device",
                "host", "--out", box.folder / "p.json"], ["p.json"], 2.0
    if phase == "probe-file":  # measures a file that it makes itself
        return ["probe", "--path", box.folder, "--seconds", "0.01", "--quiet", "--device", "host",
                "--out", box.folder / "p.json"], ["p.json"], 1.5
    if phase == "plan":
        return ["plan", box.config(slow)], [], 0.02
    if phase == "tokenize":
        text = box.write("text", "word " * 20000)
        return ["tokenize", slow, "--text-file", text], [], 0.05
    raise ValueError(phase)


def check_kept(box, phase, result, had_begun):
    """What must be there after a stop. `had_begun`: weights were read before it was sent."""
    code = result.code
    if code == 130 and NOTHING_YET in result.err:  # behind the notes of a plan, for example
        if had_begun:
            raise Failure("ended as if there had been nothing to keep, but weights were read")
        left = [name for name in ("report.json", "trace.json") if (box.folder / name).exists()]
        if left:
            raise Failure(f"says that there was nothing to keep, and leaves {left}")
        return
    if phase in ("loading", "prompt", "decode", "score"):
        box.report(interrupted=code == 130)
        json.loads((box.folder / "trace.json").read_bytes())
    elif phase == "synth" and code == 130 and (box.folder / "new").exists():
        raise Failure("synth left something behind")
    elif phase == "bench":
        path = box.folder / "bench" / "bench.json"
        if path.exists() and path.stat().st_size:
            json.loads(path.read_bytes())


def weights_read(box, running, phase):
    """Whether loading has begun: more was read than all that comes before it. By passes that stream
    or read homes; never of the others."""
    if phase not in ("loading", "prompt", "decode", "score"):
        return False
    folder = box.world.models["slow"]
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return running.bytes_read() > sum(sizes.values()) - sizes["model.safetensors"] // 2


def interruption(phase, send, check=check_kept):
    """Starts a long run, lets `send` signal it at a random moment, checks what is left."""
    def body(box):
        arguments, outputs, window = long_run(box, phase)
        running = box.start(*arguments, outputs=outputs)
        running.listening()
        time.sleep(box.random.uniform(0, window))
        had_begun = weights_read(box, running, phase)
        send(box, running)
        result = running.wait(expect=STOPPED)
        check(box, phase, result, had_begun)
    return body


def stop_case(phase, number):
    return interruption(phase, lambda _, running: running.send(number))


def two_stops_case(phase, first, second, gap):
    """The second ends at once; the first may have ended it cleanly before."""
    def send(_, running):
        running.send(first)
        time.sleep(gap)
        running.send(second)
    return interruption(phase, send, check=lambda *_: None)


def storm_case(phase):
    """Signals as fast as they can be sent."""
    def send(box, running):
        for _ in range(50):
            running.send(box.random.choice(list(SIGNALS.values())))
    return interruption(phase, send, check=lambda *_: None)


def paused_case(phase):
    """SIGSTOP and SIGCONT change nothing; a stop sent while paused is obeyed afterwards."""
    def body(box):
        arguments, outputs, window = long_run(box, phase)
        running = box.start(*arguments, outputs=outputs)
        running.listening()
        for _ in range(3):
            time.sleep(box.random.uniform(0, window / 3))
            running.send(signal.SIGSTOP)
            time.sleep(0.02)
            running.send(signal.SIGCONT)
        running.send(signal.SIGSTOP)
        had_begun = weights_read(box, running, phase)
        running.send(signal.SIGTERM)
        time.sleep(0.02)
        running.send(signal.SIGCONT)
        result = running.wait(expect=STOPPED)
        check_kept(box, phase, result, had_begun)
    return body


def ignored_case(number):
    """Signals that mean nothing to the program do not end it badly."""
    def body(box):
        arguments, outputs, window = long_run(box, "decode")
        running = box.start(*arguments, outputs=outputs)
        running.listening()
        for _ in range(5):
            time.sleep(window / 10)
            running.send(number)
        had_begun = weights_read(box, running, "decode")
        running.send(signal.SIGINT)
        result = running.wait(expect=STOPPED)
        check_kept(box, "decode", result, had_begun)
    return body


def decode_keeps_text(number):
    """After several passes there is a text, and it is kept."""
    def body(box):
        arguments, outputs, _ = long_run(box, "decode")
        running = box.start(*arguments, outputs=outputs)
        size = (box.world.models["slow"] / "model.safetensors").stat().st_size
        running.after_reading(box.random.randrange(4, 12) * size)
        running.send(number)
        result = running.wait(expect=STOPPED)
        box.report(text=True)
        if not result.out.strip():
            raise Failure("the text so far was not printed")
    return body


def at_once_case(phase, number):
    """Before the program can have got anywhere: it obeys, by code or by the signal's default."""
    def body(box):
        arguments, outputs, _ = long_run(box, phase)
        running = box.start(*arguments, outputs=outputs)
        if not running.listening():
            running.wait(expect=STOPPED)
            return
        running.send(number)
        running.wait(expect=STOPPED)
    return body


def killed_synth(box):
    """kill -9 leaves files; the next synth of the same model recognises them and goes on."""
    arguments, outputs, window = long_run(box, "synth")
    running = box.start(*arguments, outputs=outputs)
    running.until(lambda: (box.folder / "new").exists())
    time.sleep(box.random.uniform(0, window))
    running.send(signal.SIGKILL)
    try:
        running.process.communicate(timeout=60)
    finally:
        running.check_children()
    box.spillway(*arguments, outputs=outputs) if not complete(box) else None
    left = list((box.folder / "new").glob("*.partial"))
    if left:
        raise Failure(f"left {left[0].name}")
    box.spillway("inspect", box.folder / "new", "--verify")


def complete(box):
    """Whether the model is whole: then a second synth rightly refuses the folder."""
    return (box.folder / "new" / "model.safetensors.index.json").exists()


def killed_case(phase):
    """kill -9: no child lives on, inputs are whole, what was written is JSON or not there."""
    def body(box):
        arguments, outputs, window = long_run(box, phase)
        running = box.start(*arguments, outputs=outputs)
        running.listening()
        time.sleep(box.random.uniform(0, window))
        running.send(signal.SIGKILL)
        running.process.communicate(timeout=60)
        running.check_children()
        for group in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
            left = f"{group}/spillway-bench-{running.process.pid}"
            if os.path.isdir(left):
                os.rmdir(left)
        for name in ("report.json", "p.json", "bench/bench.json"):
            path = box.folder / name
            if path.exists() and path.stat().st_size:
                json.loads(path.read_bytes())
    return body


def bench_child_killed(box):
    """The child of bench dies: that arm is skipped with its reason, the others are measured."""
    from box import children_of
    arguments, outputs, _ = long_run(box, "bench")
    running = box.start(*arguments, outputs=outputs)
    if running.until(lambda: children_of(running.process.pid)):
        for pid in children_of(running.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    running.wait()
    json.loads((box.folder / "bench" / "bench.json").read_bytes())


def cases(_):
    for phase, moments in {"loading": MOMENTS, "prompt": MOMENTS, "decode": MOMENTS,
                           "score": MOMENTS, "inspect": 2, "synth": MOMENTS, "bench": 2,
                           "probe": 1, "probe-file": 1, "plan": 1, "tokenize": 1}.items():
        for name, number in SIGNALS.items():
            for moment in range(moments):
                yield f"{phase}/{name}-{moment}", stop_case(phase, number)
            yield f"{phase}/{name}-at-once", at_once_case(phase, number)
    for phase in ("loading", "prompt", "decode", "score", "synth"):
        for gap in (0, 0.001, 0.05):
            yield f"{phase}/twice-{gap}", two_stops_case(phase, signal.SIGINT, signal.SIGINT, gap)
        yield f"{phase}/int-term", two_stops_case(phase, signal.SIGINT, signal.SIGTERM, 0.01)
        yield f"{phase}/storm", storm_case(phase)
        yield f"{phase}/paused", paused_case(phase)
    for name, number in {"pipe": signal.SIGPIPE, "winch": signal.SIGWINCH, "chld": signal.SIGCHLD,
                         "cont": signal.SIGCONT, "urg": signal.SIGURG, "xfsz": signal.SIGXFSZ
                         }.items():
        yield f"ignored/{name}", ignored_case(number)
    for name, number in SIGNALS.items():
        for moment in range(3):
            yield f"text/{name}-{moment}", decode_keeps_text(number)
    for moment in range(3):
        yield f"kill/synth-{moment}", killed_synth
    for phase in ("decode", "score", "probe-file", "bench"):
        yield f"kill/{phase}", killed_case(phase)
    yield "bench/storm", storm_case("bench")
    yield "bench/paused", paused_case("bench")
    yield "bench/child-killed", bench_child_killed
