"""Spillway as a model of lm-evaluation-harness: importing this registers it as `spillway`.

A task's requests go to the program all at once, so that a read of the weights serves many of them.
README.md says how to run it.
"""
import atexit
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import yaml
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

STOPPED = 130  # exit code
SAYS = "spillway: "
KNOWN_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


class SpillwayError(RuntimeError):
    """One line for a person, in the program's own words where it has them."""


class NotStarted(SpillwayError):
    """The program refused before anything was computed."""


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_whole(path, text):
    """Under its own name the file is never half there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def relay(stream, errors):
    """Shows notes and progress as they come; errors are kept for whoever raises them."""
    for line in stream:
        if line.startswith(SAYS):
            errors.append(line[len(SAYS):].strip())
        else:
            print(line, end="", file=sys.stderr, flush=True)


def end(process):
    """Ctrl-C at a terminal reached it, too, and a second signal would cut its clean end short."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    if process.poll() is None:
        process.terminate()
        process.wait()


class Program:
    """The program, a model, and options that `score` and `run` get."""

    def __init__(self, binary, model, options):
        self.binary = shutil.which(os.path.expanduser(binary))
        if self.binary is None:
            raise SpillwayError(f"{binary}: no such program; give binary=PATH in --model_args")
        self.model, self.options = model, options
        self.configuration = self.read_configuration()

    def read_configuration(self):
        """The sections of a YAML file as texts; of another model its path alone."""
        if not os.path.isfile(self.model) or self.model.endswith(".gguf"):
            name = os.path.abspath(self.model) if os.path.exists(self.model) else self.model
            return {"model": {"path": name}}
        try:
            with open(self.model, encoding="utf-8") as file:
                sections = yaml.load(file, yaml.BaseLoader)
            path = os.path.expandvars(os.path.expanduser(sections["model"]["path"]))
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            raise SpillwayError(f"{self.model}: no YAML file with model.path") from None
        beside = os.path.join(os.path.dirname(os.path.abspath(self.model)), path)
        sections["model"]["path"] = beside if os.path.exists(beside) else path
        return {name: section for name, section in sections.items() if isinstance(section, dict)}

    def weights(self):
        """The model's folder, file or name, for commands that take no YAML file."""
        return self.configuration["model"]["path"]

    def stamp(self):
        """Changes when the model's files do."""
        path = pathlib.Path(self.weights())
        files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
        return [str(path), *([file.name, file.stat().st_size, file.stat().st_mtime_ns]
                             for file in files)]

    def lines(self, *arguments):
        """Lines of standard output as they come; a consumer that has enough sends stop()."""
        self.enough = False
        errors = []
        self.process = subprocess.Popen(
            [self.binary, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
        relaying = threading.Thread(target=relay, args=(self.process.stderr, errors))
        relaying.start()
        try:
            yield from self.process.stdout
            code = self.process.wait()
        except BaseException:
            self.process.stdout.close()  # nobody reads it any more
            end(self.process)
            raise
        finally:
            relaying.join()
            self.process.stdout.close()
            self.process.stderr.close()
        if code == STOPPED and not self.enough:
            raise KeyboardInterrupt
        if code not in (0, STOPPED):
            raise SpillwayError(errors[-1] if errors else f"{self.binary} ended with {code}")

    def stop(self):
        """Asks for a clean end, which is no error then."""
        self.enough = True
        self.process.send_signal(signal.SIGINT)

    def score(self, data, out, settings):
        options = [option for setting in settings for option in ("--set", setting)]
        for _ in self.lines("score", self.model, *self.options, *options, "--quiet", "--data", data,
                            "--out", out):
            pass
        with open(out / "scores.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def tokenize(self, items, *options):
        """Texts to lists of ids; with --decode back."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)
            file.flush()
            return [json.loads(line) for line in
                    self.lines("tokenize", self.weights(), "--text-file", file.name, "--lines",
                               *options)]

    def inspect(self):
        return json.loads("".join(self.lines("inspect", self.weights(), "--json")))

    def generate(self, prompts, settings, stops):
        """Ids that follow each of `prompts` (lists of ids), up to the token that brings one of its
        `stops`, if any does; the run ends when no prompt needs another token."""
        sections = {name: section for name, section in self.configuration.items()
                    if name in ("model", "memory", "placement", "io", "stream", "compute")}
        sections["generate"] = {"prompt_token_ids": prompts, **settings}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump(sections, file)
            file.flush()
            answers = [Answer(texts) for texts in stops]
            started = False
            try:
                for line in self.lines("run", file.name, *self.options, "--json-lines", "--quiet"):
                    event = json.loads(line)
                    started |= event["event"] == "start"
                    if event["event"] in ("token", "finish"):
                        answers[event["prompt"]].take(event)
                    if not self.enough and all(answer.ended for answer in answers):
                        self.stop()
            except SpillwayError as error:
                raise error if started else NotStarted(error) from None
            return [answer.ids for answer in answers]


class Answer:
    """One prompt's, as it comes."""

    def __init__(self, stops):
        self.stops = [stop for stop in stops if stop]
        self.ids, self.text, self.ended = [], "", False

    def take(self, event):
        if self.ended:
            return
        if event["event"] == "finish":
            self.ended = True
            return
        self.ids.append(event["id"])
        self.text += event["text"]
        # Some tokenizers leave out a space in front when the answer alone is decoded.
        self.ended = any(stop in self.text.removeprefix(" ") for stop in self.stops)


def folder_for_now():
    folder = tempfile.mkdtemp(prefix="spillway-lm-eval-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def settings_list(settings):
    if isinstance(settings, str):
        settings = settings.split(";")
    return [setting.strip() for setting in settings if setting.strip()]


@register_model("spillway")
class SpillwayLM(LM):
    """Arguments of --model_args:

    model           whatever `spillway` takes: folder, .gguf file, YAML file, Hugging Face name
    binary          the program (`spillway`, on the PATH)
    ram             its option --ram
    set             keys of the configuration: set=score.sweep=8192;device=host
    keep            a folder: an evaluation that was interrupted goes on from there
    batch           prompts that are answered together, at most; fewer where memory is short (32)
    max_length      tokens that are fed at once at most (the model's context)
    max_gen_toks    where a task does not say (256)
    prefix_token_id stands before a text of which all is scored (BOS, else EOS)
    seed            where a task samples (0)
    """

    def __init__(self, model, binary="spillway", ram=None, set=(), keep=None, batch=32,
                 max_length=None, max_gen_toks=256, prefix_token_id=None, seed=0, device=None,
                 batch_size=None, max_batch_size=None):
        super().__init__()
        del device, batch_size, max_batch_size  # the harness's own, which are there unasked
        options = [] if ram is None else ["--ram", str(ram)]
        options += [option for setting in settings_list(set) for option in ("--set", setting)]
        self.program = Program(str(binary), str(model), options)
        self.batch, self.max_gen_toks, self.seed = int(batch), int(max_gen_toks), int(seed)
        if self.batch < 1:
            raise SpillwayError(f"batch={batch}: give 1 or more")
        self.max_length = int(max_length or self.program.inspect()["context"])
        self.given_prefix = prefix_token_id
        self.keeps = keep is not None
        self.folder = pathlib.Path(str(keep) if self.keeps else folder_for_now())

    def encode(self, texts):
        """As prompts, BOS in front where the tokenizer puts it there."""
        return self.program.tokenize(texts, "--bos")

    def prefix_token(self):
        """What stands for an empty context; None where nothing says."""
        if self.given_prefix is None:
            bos = self.encode([""])[0]
            self.given_prefix = bos[-1] if bos else self.prefix_of_folder()
        return self.given_prefix

    def prefix_of_folder(self):
        """BOS or else EOS of a checkpoint whose tokenizer puts neither in front."""
        folder = pathlib.Path(self.program.inspect()["tensors"][0]["file"]).parent
        for name in ("bos_token", "eos_token"):
            with contextlib.suppress(OSError, ValueError):
                token = json.loads((folder / "tokenizer_config.json").read_text()).get(name)
                token = token["content"] if isinstance(token, dict) else token
                ids = self.program.tokenize([token])[0] if token else []
                if len(ids) == 1:
                    return ids[0]
        return None

    def score(self, documents):
        """Sum of log-probabilities and whether all tokens were likeliest, for each document; all are
        one job, whose folder is named by what it scores."""
        if not documents:
            return []
        data = "".join(json.dumps(document) + "\n" for document in documents)
        folder = self.folder / f"score-{digest(data)}"
        folder.mkdir(parents=True, exist_ok=True)
        requests = folder / "requests.jsonl"
        if not requests.exists():
            write_whole(requests, data)
        # The harness feeds max_length tokens and scores the one behind them.
        settings = [f"score.context={self.max_length + 1}", "score.logprobs=false"]
        if self.prefix_token() is not None:
            settings.append(f"score.prefix_token={self.prefix_token()}")
        rows = self.program.score(requests, folder / "out", settings)
        return [(float("nan") if row["sum_logprob"] is None else row["sum_logprob"], row["greedy"])
                for row in rows]

    def loglikelihood(self, requests, disable_tqdm=False):
        pairs = list(dict.fromkeys(request.args for request in requests))
        answers = dict(zip(pairs, self.score([{"context": context, "continuation": continuation}
                                              for context, continuation in pairs])))
        for pair, answer in answers.items():
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return [answers[request.args] for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        texts = [request.args[0] for request in requests]
        if self.prefix_token() is None:
            raise SpillwayError(f"{self.program.model}: no token stands before its texts; give "
                                "prefix_token_id=ID in --model_args")
        owners, documents = [], []
        for owner, ids in enumerate(self.encode(texts)):
            for window in get_rolling_token_windows(ids, self.prefix_token(), self.max_length, 1):
                context, continuation = make_disjoint_window(window)
                owners.append(owner)
                documents.append({"context_ids": context, "continuation_ids": continuation})
        sums = [0.0] * len(texts)
        for owner, (logprob, _) in zip(owners, self.score(documents)):
            sums[owner] += logprob
        for text, total in zip(texts, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return sums

    def generate_until(self, requests, disable_tqdm=False):
        prompts = self.encode([request.args[0] for request in requests])
        stops, groups = [], {}
        for number, request in enumerate(requests):
            settings, until = self.generation_settings(request.args[1])
            room = self.max_length - settings["max_new_tokens"]
            if room <= 0:
                raise SpillwayError(f"max_gen_toks {settings['max_new_tokens']} leaves no room for a "
                                    f"prompt: the model's context is {self.max_length} tokens")
            prompts[number] = prompts[number][-room:]
            stops.append(until)
            groups.setdefault(json.dumps(settings), []).append(number)
        ids = [None] * len(requests)
        for settings, members in groups.items():
            # Alike ones together, the longest first: what does not fit shows at once.
            members.sort(key=lambda number: -len(prompts[number]))
            self.generate_group(members, json.loads(settings), prompts, stops, ids)
        texts = [postprocess_generated_text(text, until, None) for text, until in
                 zip(self.program.tokenize(ids, "--decode"), stops)]
        for request, text in zip(requests, texts):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def generation_settings(self, wanted):
        """Keys of the configuration, and the texts that end an answer."""
        wanted = normalize_gen_kwargs(wanted, self.max_gen_toks)
        unknown = sorted(name for name in set(wanted) - KNOWN_SETTINGS if wanted[name] is not None)
        if unknown:
            raise SpillwayError(f"generation settings that it does not have: {', '.join(unknown)}")
        settings = {"max_new_tokens": wanted["max_gen_toks"], "ignore_eos": False}
        if wanted["do_sample"]:
            settings.update((name, wanted[name]) for name in ("temperature", "top_p", "top_k")
                            if wanted.get(name) is not None)
        return settings, wanted["until"]

    def generate_group(self, members, settings, prompts, stops, ids):
        """Fills `ids` for members of one group, batch after batch."""
        begin = 0
        while begin < len(members):
            batch = members[begin:begin + self.batch]
            try:
                answers = self.generate_batch([prompts[number] for number in batch],
                                              {**settings, "seed": self.seed + begin},
                                              [stops[number] for number in batch])
            except NotStarted:
                if len(batch) == 1:
                    raise
                self.batch = len(batch) // 2  # memory may be short
                continue
            for number, answer in zip(batch, answers):
                ids[number] = answer
            begin += len(batch)

    def generate_batch(self, prompts, settings, stops):
        """With `keep` those of an evaluation before."""
        kept = None
        if self.keeps:
            job = [self.program.stamp(), self.program.options, prompts, settings, stops]
            kept = self.folder / f"generate-{digest(json.dumps(job))}.json"
            if kept.exists():
                return json.loads(kept.read_text())
        answers = self.program.generate(prompts, settings, stops)
        if kept is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(answers))
        return answers
