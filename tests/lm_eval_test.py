#!/usr/bin/env python3
"""Spillway under lm-evaluation-harness, against the harness's own transformers backend in float32:
lm_eval_test.py SCRIPTS_FOLDER SPILLWAY TEST_DATA.

Skipped (exit code 77) with a message where lm_eval, torch or transformers are not installed."""
import json
import os
import pathlib
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import unittest

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
SCRIPTS, DATA = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])
SPILLWAY = os.path.abspath(sys.argv[2])
sys.path.append(str(SCRIPTS / "lm_eval"))
try:
    import lm_eval
    import tokenizers
    import torch
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from safetensors import safe_open
    from spillway_lm import SpillwayError, SpillwayLM
except ImportError as missing:
    print(f"skipped: no {missing.name} for Python here (pip install 'lm_eval[hf]' torch)")
    sys.exit(77)

SEED = int(os.environ.get("SPILLWAY_SEED", random.randrange(1 << 30)))
WORST = 1e-3  # or, of sums over thousands of tokens, which transformers adds in float32:
WORST_SHARE = 1e-6
WORDS = ("the a little girl boy dog ball tree was in and to She he saw big red sun park day Lily "
         "very happy played with her mom said yes no wanted went home they loved it.").split()
ODD = ["", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u2003", "\u3000", "\x1c", "\u200b", "é", "e\u0301", "ß",
       "中文", "日本", "🙂", "👩‍👧", "<s>", "</s>", "<|", "a", "Hello", "Question:", "1234", ".", "...", "\r\n",
       "\ufeff", "\u0130", "don't", "x" * 40]
CONTEXT = 48  # of the model that is made here


def write_random_llama(folder):
    """With a byte-level tokenizer that puts nothing in front."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>",
                                                eos_token="</s>")
    torch.manual_seed(SEED)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
        initializer_range=0.15, bos_token_id=0, eos_token_id=1))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def named_tokens(model, folder):
    """The same files, and what transformers must be told of the tokenizer."""
    folder.mkdir()
    for file in model.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}))


def some_text(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def odd_text(rng):
    return "".join(rng.choice(ODD) for _ in range(rng.randrange(5)))


def task(folder, name, rows, **config):
    """A task over rows that are written to `folder`."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test", **config}


def tasks(folder, rng, context):
    """One of each kind; some texts are longer than the model's context."""
    lengths = [3, 10, context // 3, context, 2 * context]
    mean = [{"metric": "acc"}, {"metric": "acc_norm"}]
    choice = task(folder, "choice", [
        {"question": some_text(rng, rng.choice(lengths)) + rng.choice(["", " ", "\n", " 🙂"]),
         "choices": [some_text(rng, rng.randrange(1, 6)) for _ in range(4)], "gold": rng.randrange(4)}
        for _ in range(12)], output_type="multiple_choice", doc_to_text="{{question}}",
        doc_to_target="gold", doc_to_choice="choices", metric_list=mean)
    empty = task(folder, "empty_context", [
        {"choices": [some_text(rng, rng.randrange(1, 6)) for _ in range(3)], "gold": rng.randrange(3)}
        for _ in range(5)], output_type="multiple_choice", doc_to_text="", doc_to_target="gold",
        doc_to_choice="choices", target_delimiter="", metric_list=mean)
    last = task(folder, "last_word", [
        {"text": some_text(rng, 6), "last": word} for word in WORDS], output_type="loglikelihood",
        doc_to_text="{{text}}", doc_to_target="{{' ' + last}}",
        metric_list=[{"metric": "perplexity"}, {"metric": "acc"}])
    rolling = task(folder, "rolling", [
        {"page": some_text(rng, words)} for words in
        [1, 5, context, 3 * context, rng.randrange(1, 2 * context)]],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{page}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "bits_per_byte")])
    answer = task(folder, "answer", [
        {"question": some_text(rng, rng.choice([2, 8, context])), "answer": some_text(rng, 2)}
        for _ in range(6)], output_type="generate_until", doc_to_text="{{question}}",
        doc_to_target="{{answer}}", metric_list=[{"metric": "exact_match"}],
        generation_kwargs={"until": [".", " big", "\n\n"], "max_gen_toks": 12})
    return [choice, empty, last, rolling, answer]


def allowed(logprob):
    return max(WORST, WORST_SHARE * abs(logprob))


def evaluate(model, of):
    return lm_eval.simple_evaluate(model=model, tasks=of, log_samples=True, bootstrap_iters=0,
                                   verbosity="ERROR")


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


class Models:
    """Both sides of each model, made once."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        made = pathlib.Path(self.folder.name) / "model"
        write_random_llama(made)
        self.paths = {"made": made}
        stories = DATA / "models/stories15M"
        if (stories / "config.json").exists():
            self.paths["stories15M"] = pathlib.Path(self.folder.name) / "stories15M"
            named_tokens(stories, self.paths["stories15M"])
        else:
            print(f"without {stories}, which is not there")
        # Its cache takes pairs for alike that are cut elsewhere, and is wrong about odd ones.
        self.hf = {name: HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1,
                              logits_cache=False)
                   for name, path in self.paths.items()}

    def spillway(self, name, **arguments):
        return SpillwayLM(model=str(self.paths[name]), binary=SPILLWAY, **arguments)


class AgainstTransformers(unittest.TestCase):
    def setUp(self):
        self.rng = random.Random(SEED)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_tasks(self):
        for name, hf in MODELS.hf.items():
            with self.subTest(name):
                of = tasks(self.folder, self.rng, hf.max_length)
                ours, theirs = evaluate(MODELS.spillway(name), of), evaluate(hf, of)
                self.compare(name, ours, theirs)

    def compare(self, name, ours, theirs):
        worst = requests = hits = 0
        for kind, samples in theirs["samples"].items():
            for one, other in zip(ours["samples"][kind], samples, strict=True):
                self.assertEqual(one["doc_id"], other["doc_id"])
                for mine, their in zip(one["resps"], other["resps"], strict=True):
                    requests += 1
                    difference, hit = self.compare_answers(kind, mine[0], their[0])
                    worst, hits = max(worst, difference), hits + hit
        for kind, metrics in theirs["results"].items():
            for metric, value in metrics.items():
                if isinstance(value, float):
                    self.assertAlmostEqual(ours["results"][kind][metric], value,
                                           delta=WORST * max(1, abs(value)), msg=f"{kind} {metric}")
        print(f"{name}: {requests} requests, {hits} of them greedy, worst difference {worst:.1e}")

    def compare_answers(self, kind, mine, their):
        """How far they are apart, and whether all tokens were likeliest."""
        if kind == "answer":
            self.assertEqual(mine, their)
            return 0, False
        if isinstance(their, tuple | list):
            self.assertEqual(mine[1], their[1], f"{kind}: greedy")
            self.assertAlmostEqual(mine[0], their[0], delta=allowed(their[0]), msg=kind)
            return abs(mine[0] - their[0]), their[1]
        self.assertAlmostEqual(mine, their, delta=allowed(their), msg=kind)
        return abs(mine - their), False

    def odd_pairs(self, hf):
        """Those of which the harness makes a request at all, and its token ids."""
        pairs = {}
        for _ in range(250):
            context, continuation = odd_text(self.rng), odd_text(self.rng)
            if not continuation:
                continue
            if context:
                ids = hf._encode_pair(context, continuation)
            else:
                ids = [hf.prefix_token_id], hf.tok_encode(continuation, add_special_tokens=False)
                if ids[1][:1] == ids[0]:
                    ids = ids[0], ids[1][1:]
            if ids[0] and ids[1] and len(ids[1]) < hf.max_length:
                pairs[context, continuation] = ids
        return pairs

    def test_odd_strings(self):
        for name, hf in MODELS.hf.items():
            with self.subTest(name):
                pairs = self.odd_pairs(hf)
                self.compare_ids(name, hf, pairs)
                requests = instances("loglikelihood", pairs)
                ours = MODELS.spillway(name).loglikelihood(requests)
                theirs = hf.loglikelihood(requests, disable_tqdm=True)
                worst = 0
                for pair, mine, their in zip(pairs, ours, theirs, strict=True):
                    self.assertAlmostEqual(mine[0], their[0], delta=WORST, msg=repr(pair))
                    self.assertEqual(mine[1], their[1], repr(pair))
                    worst = max(worst, abs(mine[0] - their[0]))
                print(f"{name}: {len(pairs)} odd pairs, worst difference {worst:.1e}")

    def compare_ids(self, name, hf, pairs):
        data, out = self.folder / f"{name}.jsonl", self.folder / name
        data.write_text("".join(json.dumps({"context": context, "continuation": continuation}) + "\n"
                                for context, continuation in pairs))
        subprocess.run([SPILLWAY, "score", MODELS.paths[name], "--data", data, "--out", out, "--quiet",
                        "--set", f"score.prefix_token={hf.prefix_token_id}"],
                       check=True, capture_output=True)
        scored = []
        for shard in sorted(out.glob("token_logprobs-*.safetensors")):
            with safe_open(shard, "numpy") as file:
                ids, offsets = file.get_tensor("ids").tolist(), file.get_tensor("document_offsets")
                scored += [ids[begin:end] for begin, end in zip(offsets, offsets[1:])]
        for (pair, ids), mine in zip(pairs.items(), scored, strict=True):
            self.assertEqual(mine, ids[1][-len(mine):] if mine else ids[1], repr(pair))
            self.assertEqual(len(mine), len(ids[1]), repr(pair))

    def test_odd_texts_roll(self):
        for name, hf in MODELS.hf.items():
            with self.subTest(name):
                texts = list({odd_text(self.rng) + some_text(self.rng, self.rng.randrange(40))
                              for _ in range(15)} - {""})
                requests = instances("loglikelihood_rolling", [(text,) for text in texts])
                ours = MODELS.spillway(name).loglikelihood_rolling(requests)
                theirs = hf.loglikelihood_rolling(requests, disable_tqdm=True)
                for text, mine, their in zip(texts, ours, theirs, strict=True):
                    self.assertAlmostEqual(mine, their, delta=WORST, msg=repr(text))

    def test_answers(self):
        """Several generation settings in one call, prompts that are cut, no room for a batch."""
        for name, hf in MODELS.hf.items():
            with self.subTest(name):
                settings = [{"until": [], "max_gen_toks": 5}, {"until": "a", "max_gen_toks": 20},
                            {"until": ["e", " t"], "max_gen_toks": 20}, {"until": ["zzzz"],
                                                                        "max_new_tokens": 7}]
                requests = instances("generate_until", [
                    (some_text(self.rng, words), one) for words in (1, 7, 2 * hf.max_length)
                    for one in settings])
                theirs = hf.generate_until(requests, disable_tqdm=True)
                for batch in (5, 64):
                    self.assertEqual(MODELS.spillway(name, batch=batch).generate_until(requests),
                                     theirs, f"batch {batch}")
                self.compare_greedy(name, hf, requests, theirs)

    def compare_greedy(self, name, hf, requests, answers):
        """What a model says is likeliest, as far as its text is its tokens; turned round it is not."""
        pairs = [(request.args[0], text) for request, answer in zip(requests, answers)
                 for text in (answer, " " + answer, answer[::-1])
                 if text.strip()
                 and 0 < len(hf._encode_pair(request.args[0], text)[1]) <= hf.max_length]
        asked = instances("loglikelihood", pairs)
        ours = [greedy for _, greedy in MODELS.spillway(name).loglikelihood(asked)]
        self.assertEqual(ours, [greedy for _, greedy in hf.loglikelihood(asked, disable_tqdm=True)])
        self.assertIn(False, ours)
        if name == "stories15M":
            self.assertIn(True, ours)


class Program(unittest.TestCase):
    """How it is called, goes on and fails."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def stand_in(self, script):
        """In front of the program: notes its arguments, then does what `script` says."""
        path = self.folder / "stand-in"
        path.write_text(f'#!/bin/bash\necho "$@" >>{self.folder}/calls\n{script}\n'
                        f'exec {SPILLWAY} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def calls(self, command):
        text = (self.folder / "calls").read_text()
        return [line for line in text.splitlines() if line.startswith(command)]

    def test_one_job_for_all_requests(self):
        model = SpillwayLM(str(MODELS.paths["made"]), binary=self.stand_in(""))
        pairs = [("the little", f" {word}") for word in WORDS] * 2
        answers = model.loglikelihood(instances("loglikelihood", pairs))
        self.assertEqual(answers[:len(WORDS)], answers[len(WORDS):])
        self.assertEqual(len(self.calls("score")), 1)
        self.assertEqual(model.loglikelihood([]), [])

    def test_options_reach_the_program(self):
        model = SpillwayLM(str(MODELS.paths["made"]), binary=self.stand_in(""), ram="256MiB",
                           set="score.chunk=16;io.depth=2", device="cuda:0")
        model.loglikelihood(instances("loglikelihood", [("a", " b")]))
        model.generate_until(instances("generate_until", [("a", {"max_gen_toks": 2})]))
        for command in ("score", "run"):
            [call] = self.calls(command)
            self.assertNotIn("cuda", call, "the harness gives it unasked")
            for option in ("--ram 256MiB", "--set score.chunk=16", "--set io.depth=2"):
                self.assertIn(option, call)

    def test_yaml_and_gguf(self):
        made = MODELS.paths["made"]
        pairs = instances("loglikelihood", [("the little", " dog"), ("", "a")])
        prompts = instances("generate_until", [("the little", {"max_gen_toks": 6})])
        plain = SpillwayLM(str(made), binary=SPILLWAY)
        (self.folder / "model").symlink_to(made)
        (self.folder / "it.yaml").write_text(
            "model:\n  path: model\nio:\n  direct: off\n  depth: 4\n"
            "generate:\n  prompts: [unused]\n  max_new_tokens: 3\n")
        written = SpillwayLM(str(self.folder / "it.yaml"), binary=SPILLWAY)
        answers = plain.loglikelihood(pairs)
        self.assertEqual(written.loglikelihood(pairs), answers)
        self.assertEqual(written.generate_until(prompts), plain.generate_until(prompts))
        gguf = self.folder / "model.gguf"
        subprocess.run([SPILLWAY, "quantize", made, gguf, "--type", "Q8_0"], check=True,
                       capture_output=True)
        with self.assertRaisesRegex(SpillwayError, "give prefix_token_id="):
            SpillwayLM(str(gguf), binary=SPILLWAY).loglikelihood_rolling(
                instances("loglikelihood_rolling", [("a",)]))
        small = SpillwayLM(str(gguf), binary=SPILLWAY, prefix_token_id=0).loglikelihood(pairs)
        for mine, exact in zip(small, answers, strict=True):
            self.assertAlmostEqual(mine[0], exact[0], delta=0.5)
            self.assertNotEqual(mine[0], exact[0])

    def test_goes_on(self):
        """Killed between two batches and after the scores: neither is computed again."""
        pairs = instances("loglikelihood", [("the little", f" {word}") for word in WORDS])
        prompts = instances("generate_until", [(word, {"max_gen_toks": 4}) for word in WORDS[:6]])
        made, keep = str(MODELS.paths["made"]), self.folder / "keep"
        plain = SpillwayLM(made, binary=SPILLWAY)
        first = SpillwayLM(made, binary=self.stand_in(
            f'if [ "$1" = run ] && [ $(grep -c ^run {self.folder}/calls) = 2 ]; then '
            'echo \'{"event": "start"}\'; echo "spillway: the drive is gone" >&2; exit 1; fi'),
            keep=keep, batch=2)
        scores = first.loglikelihood(pairs)
        with self.assertRaisesRegex(SpillwayError, "^the drive is gone$"):
            first.generate_until(prompts)
        before = len(self.calls("run"))
        again = SpillwayLM(made, binary=self.stand_in(""), keep=str(keep), batch=2)
        self.assertEqual(again.loglikelihood(pairs), scores)
        self.assertEqual(again.generate_until(prompts), plain.generate_until(prompts))
        self.assertEqual(len(self.calls("run")) - before, 2, "the first batch was kept")
        self.assertEqual(len(list(keep.glob("score-*"))), 1)

    def test_a_stopped_job_goes_on(self):
        """The program is interrupted while it scores: what is recorded stays."""
        made, keep = str(MODELS.paths["made"]), self.folder / "keep"
        rng = random.Random(SEED)
        pairs = instances("loglikelihood", [(some_text(rng, 20), " dog") for _ in range(3000)])
        one = SpillwayLM(made, binary=SPILLWAY, keep=keep, set="score.shard_tokens=512")

        def stop_when_recorded():
            while not stopped.wait(0.005):
                manifests = list(keep.glob("score-*/out/manifest.json"))
                if manifests and '"number":1' in manifests[0].read_text():
                    one.program.process.send_signal(signal.SIGINT)
                    return
        stopped = threading.Event()
        watcher = threading.Thread(target=stop_when_recorded)
        watcher.start()
        try:
            with self.assertRaises(KeyboardInterrupt):
                one.loglikelihood(pairs)
        finally:
            stopped.set()
            watcher.join()
        [manifest] = keep.glob("score-*/out/manifest.json")
        recorded = len(json.loads(manifest.read_text())["sweeps"])
        again = SpillwayLM(made, binary=SPILLWAY, keep=keep, set="score.shard_tokens=512")
        whole = SpillwayLM(made, binary=SPILLWAY).loglikelihood(pairs)
        self.assertEqual(again.loglikelihood(pairs), whole)
        self.assertLess(recorded, len(json.loads(manifest.read_text())["sweeps"]))

    def test_ends_when_all_answers_did(self):
        """Each has its stop string: the program, which would go on, is interrupted."""
        endless = self.folder / "endless.py"
        endless.write_text("""
import json, signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
for event in [{"event": "start"}, *({"event": "token", "prompt": i, "id": 70 + n, "text": text}
                                    for n, text in enumerate(" .,;") for i in (0, 1))]:
    print(json.dumps(event), flush=True)
signal.pause()
""")
        model = SpillwayLM(str(MODELS.paths["made"]), binary=self.stand_in(
            f'if [ "$1" = run ]; then exec {sys.executable} {endless}; fi'))
        answers = model.program.generate([[1], [2]], {}, [[","], [".", ";"]])
        self.assertEqual(answers, [[70, 71, 72], [70, 71]])

    def test_batches_shrink_where_memory_is_short(self):
        refusing = self.stand_in(
            'if [ "$1" = run ] && [ $(grep -o "\\[" "$2" | wc -l) -gt 3 ]; then '
            'echo "spillway: it does not fit" >&2; exit 1; fi')
        prompts = instances("generate_until", [(word, {"max_gen_toks": 3}) for word in WORDS[:7]])
        made = str(MODELS.paths["made"])
        self.assertEqual(SpillwayLM(made, binary=refusing).generate_until(prompts),
                         SpillwayLM(made, binary=SPILLWAY).generate_until(prompts))
        self.assertEqual(len(self.calls("run")), 2 + 7)  # of 7 and 3 refused, then one by one

    def test_errors_are_one_line(self):
        made = str(MODELS.paths["made"])
        joined = instances("loglikelihood", [("the", "")])
        model = SpillwayLM(made, binary=SPILLWAY)
        for says, call in (
                ("no-such-program: no such program", lambda: SpillwayLM(made, binary="no-such-program")),
                ("no such file or folder", lambda: SpillwayLM("/no/model", binary=SPILLWAY)),
                ("batch=0", lambda: SpillwayLM(made, binary=SPILLWAY, batch=0)),
                ("requests.jsonl, line 1: continuation is empty", lambda: model.loglikelihood(joined)),
                ("score.nonsense", lambda: SpillwayLM(made, binary=SPILLWAY, set="score.nonsense=1")
                 .loglikelihood(instances("loglikelihood", [("a", " b")]))),
                ("no room", lambda: model.generate_until(
                    instances("generate_until", [("a", {"max_gen_toks": CONTEXT})]))),
                ("num_beams", lambda: model.generate_until(
                    instances("generate_until", [("a", {"num_beams": 4})])))):
            with self.subTest(says), self.assertRaises(SpillwayError) as raised:
                call()
            self.assertIn(says, str(raised.exception))
            self.assertEqual(len(str(raised.exception).splitlines()), 1)

    def test_from_the_command_line(self):
        rng = random.Random(SEED)
        made = task(self.folder, "made_up", [
            {"question": some_text(rng, 5), "choices": ["dog", "ball"], "gold": 0} for _ in range(4)],
            output_type="multiple_choice", doc_to_text="{{question}}", doc_to_target="gold",
            doc_to_choice="choices")
        (self.folder / "made_up.yaml").write_text(json.dumps(made))

        def run(model):
            return subprocess.run(
                [sys.executable, SCRIPTS / "lm_eval/run.py", "--tasks", "made_up", "--include_path",
                 self.folder, "--model_args", f"model={model},binary={SPILLWAY},ram=256MiB,"
                 "set=score.chunk=16;io.depth=2"], capture_output=True, text=True)
        done = run(MODELS.paths["made"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("made_up", done.stdout)
        failed = run("/no/model")
        self.assertEqual(failed.returncode, 1)
        self.assertRegex(failed.stderr.splitlines()[-1], "^spillway: /no/model: no such file")
        self.assertNotIn("Traceback", failed.stderr)


if __name__ == "__main__":
    del sys.argv[1:4]
    print(f"seed {SEED}")
    transformers.logging.set_verbosity_error()
    MODELS = Models()
    unittest.main()
