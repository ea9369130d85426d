"""Random models: log-probabilities and greedy tokens of the program against transformers."""
import json
import math
import pathlib
import random
import shutil
import traceback

import configurations
import program
import reference

TOLERANCE = 2e-3      # of a log-probability; float32 against float32 gives about 2e-5
CLEAR_MARGIN = 0.05   # of logits: a greedy token that leads by less may fall either way
FEW_TOKENS = 200


def windows_of(text, size):
    """A text cut as scoring cuts it: windows that overlap by one token."""
    return [text[first:first + size] for first in range(0, max(1, len(text) - 1), size - 1)]


def expected_in_windows(model, texts, size):
    cut = [windows_of(text, size) for text in texts]
    flat = iter(reference.log_probabilities(model, [w for windows in cut for w in windows]))
    return [[p for _ in windows for p in next(flat)] for windows in cut]


def worst_difference(expected, got):
    """Largest difference and where: (difference, text, token)."""
    if [len(row) for row in expected] != [len(row) for row in got]:
        return math.inf, 0, 0
    return max(((abs(a - b), t, i) for t, rows in enumerate(zip(expected, got))
                for i, (a, b) in enumerate(zip(*rows))), default=(0.0, 0, 0))


def few_of(texts):
    few, left = [], FEW_TOKENS
    for text in texts:
        if left > 1:
            few.append(text[:left])
            left -= len(few[-1])
    return few if any(len(text) > 1 for text in few) else [max(texts, key=len)[:FEW_TOKENS]]


def cpu_multiplies_bf16():
    return "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text()


class ModelCase:
    """One drawn model in its folder, and what was found with it."""

    def __init__(self, binary, root, seed, index):
        self.binary, self.seed, self.index = binary, seed, index
        self.folder = program.folder_for(root, f"model-{seed}-{index}")
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.drawn = configurations.draw_model(seed, index)
        self.found = {"family": self.drawn["config"]["model_type"], "folder": str(self.folder),
                      "runs": 0, "tokens": 0, "worst": 0.0, "bits": 0, "greedy": 0,
                      "failures": []}
        self.by_passes = {}

    def fail(self, name, what):
        self.found["failures"].append(f"{name}: {what}")

    def run(self):
        reference.save(self.drawn, self.folder / "model")
        self.model = reference.load(self.folder / "model")
        self.write_texts()
        for name, texts, settings in configurations.draw_runs(self.drawn, self.seed, self.index):
            self.attempt(name, lambda n=name, t=texts, s=settings: self.score(n, t, s))
        rng = random.Random(f"{self.seed} greedy {self.index}")
        for turn in range(2):
            name = f"greedy-{turn}"
            settings = configurations.draw_settings(rng, rng.choice([16, 64, 512]))
            self.attempt(name, lambda n=name, s=settings: self.greedy(n, s))
        if cpu_multiplies_bf16() and rng.random() < 0.25:
            self.attempt("bf16", lambda: self.score_in_bf16(rng))
        if not self.found["failures"]:
            shutil.rmtree(self.folder)
        return self.found

    def attempt(self, name, step):
        try:
            step()
        except program.Failed as error:
            self.fail(name, str(error))

    def write_texts(self):
        context = configurations.context_of(self.drawn["config"])
        self.texts = {"ids": self.drawn["texts"], "few": few_of(self.drawn["texts"])}
        self.texts["windows"] = self.texts["ids"][:6]
        self.expected = {name: expected_in_windows(self.model, self.texts[name], context)
                         for name in ("ids", "few")}
        for name, texts in self.texts.items():
            (self.folder / f"{name}.json").write_text(json.dumps(texts))

    def score(self, name, texts, settings):
        expected = self.expected.get(texts)
        if expected is None:
            expected = expected_in_windows(self.model, self.texts[texts],
                                           settings["score.context"])
        report = self.scored(name, texts, settings, expected)
        difference, text, token = worst_difference(expected, report["logprobs"])
        self.found["worst"] = max(self.found["worst"], difference)
        if difference > TOLERANCE:
            self.fail(name, f"differs by {difference:.3g} at text {text} token {token + 1}")
        self.same_bits(name, texts, report)

    def scored(self, name, texts, settings, expected):
        """Runs, and leaves beside the report what it was to say."""
        (self.folder / f"{name}.expected.json").write_text(json.dumps(expected))
        report = program.score(self.binary, self.folder, name, settings, f"{texts}.json")
        self.found["runs"] += 1
        self.found["tokens"] += report["tokens"]
        return report

    def same_bits(self, name, texts, report):
        """Passes of the same rows give the same bits, wherever weights are and whoever computes."""
        key = (texts, tuple(p["tokens"] for p in report["passes"]))
        first, logprobs = self.by_passes.setdefault(key, (name, report["logprobs"]))
        self.found["bits"] += 1
        if logprobs != report["logprobs"]:
            self.fail(name, f"other bits than {first}, by up to "
                            f"{worst_difference(logprobs, report['logprobs'])[0]:.3g}")

    def greedy(self, name, settings):
        prompts, count = self.drawn["prompts"], self.drawn["new_tokens"]
        got = program.generate(self.binary, self.folder, name, settings, prompts, count)
        if not hasattr(self, "answers"):
            self.answers = reference.greedy(self.model, prompts, count)
        for p, (answer, (tokens, margins)) in enumerate(zip(got, self.answers)):
            clear = next((i for i, m in enumerate(margins) if m < CLEAR_MARGIN), len(tokens))
            self.found["greedy"] += clear
            if len(answer) != count or answer[:clear] != tokens[:clear]:
                self.fail(name, f"prompt {p}: {answer} instead of {tokens[:clear]}")

    def score_in_bf16(self, rng):
        """bf16 products may cost as much as rounding inputs costs the reference, a few times over:
        other sums round other values up or down."""
        texts = self.texts["few"]
        exact = self.expected["few"]
        rounded = reference.load(self.folder / "model")
        reference.rounding_inputs(rounded)
        cost = worst_difference(exact, reference.log_probabilities(rounded, texts))[0]
        settings = {**configurations.draw_settings(rng, 512), "compute.prompt_math": "bf16"}
        report = self.scored("bf16", "few", settings, exact)
        difference = worst_difference(exact, report["logprobs"])[0]
        if difference > 3 * cost + TOLERANCE:
            self.fail("bf16", f"differs by {difference:.3g} where rounding costs {cost:.3g}")


def compare(binary, root, seed, index):
    """Everything about one model; never throws."""
    case = ModelCase(binary, root, seed, index)
    try:
        return case.run()
    except Exception:  # a driver that stops at its own fault would hide the rest
        case.fail("driver", traceback.format_exc())
        return case.found
