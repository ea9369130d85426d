"""Texts through the program and through tokenizers (or sentencepiece): ids, and text again."""
import json
import pathlib
import random
import re
import shutil
import traceback

import program
import texts

REFUSED = re.compile(r"not supported|is supported with|supported are")


def answers_of(binary, folder, inputs, *flags):
    """The program's answer to each input. Inputs are JSON values, one a line."""
    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in inputs))
    done = program.call(binary, "tokenize", folder, "--text-file", file, "--lines", *flags)
    if done.returncode != 0:
        raise program.Failed((done.stderr.strip().splitlines() or ["no message"])[-1])
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


class HuggingFace:
    """The tokenizers library on a folder's tokenizer.json."""

    def __init__(self, folder):
        import tokenizers
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def encode(self, inputs):
        done = self.tokenizer.encode_batch(inputs, add_special_tokens=False)
        return [encoding.ids for encoding in done]

    def decode(self, lists):
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in lists]

    def own_words(self):
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        return added[:40] * 3 + sorted(self.tokenizer.get_vocab())[::37][:120]

    def ids(self):
        return sorted(self.tokenizer.get_vocab().values())


class SentencePiece:
    """The sentencepiece library on a folder's tokenizer.model."""

    def __init__(self, folder):
        import sentencepiece
        self.model = sentencepiece.SentencePieceProcessor(
            model_file=str(folder / "tokenizer.model"))
        self.special = {i for i in range(len(self.model)) if self.model.IsControl(i)}

    def encode(self, inputs):
        return self.model.encode(inputs)

    def decode(self, lists):
        return [self.model.decode(ids) for ids in lists]

    def own_words(self):
        return [self.model.IdToPiece(i) for i in range(0, len(self.model), 11)
                if i not in self.special][:150]

    def ids(self):
        return [i for i in range(len(self.model)) if i not in self.special]


def random_lists(rng, encoded, ids):
    """Ids to decode: what texts gave, parts of it, and any."""
    lists = []
    for sequence in encoded:
        kind = rng.random()
        if kind < 0.4:
            lists.append(sequence)
        elif kind < 0.7:
            first = rng.randrange(len(sequence) + 1)
            lists.append(sequence[first:first + rng.randrange(1, 9)])
        else:
            lists.append(rng.choices(ids, k=rng.choice([1, 2, 3, 8])))
    return lists


class TokenizerCase:
    def __init__(self, binary, folder, reference, name):
        self.binary, self.folder, self.reference = binary, folder, reference
        self.found = {"name": name, "folder": str(folder), "texts": 0, "lists": 0, "ids": 0,
                      "different": 0, "refused": "", "failures": []}

    def run(self, seed, count):
        rng = random.Random(seed)
        inputs = texts.random_texts(seed, self.reference.own_words(), count)
        try:
            got = answers_of(self.binary, self.folder, inputs)
        except program.Failed as error:
            if REFUSED.search(str(error)):
                self.found["refused"] = str(error)
            else:
                self.found["failures"].append(str(error))
            return self.found
        expected = self.reference.encode(inputs)
        self.compare("encode", inputs, expected, got)
        self.found["texts"] = len(inputs)
        self.found["ids"] = sum(map(len, expected))
        lists = random_lists(rng, expected, self.reference.ids())
        try:
            got = answers_of(self.binary, self.folder, lists, "--decode")
        except program.Failed as error:
            self.found["failures"].append(str(error))
            return self.found
        self.compare("decode", lists, self.reference.decode(lists), got)
        self.found["lists"] = len(lists)
        return self.found

    def compare(self, what, inputs, expected, got):
        different = [i for i, (e, g) in enumerate(zip(expected, got)) if e != g]
        if len(expected) != len(got):
            self.found["failures"].append(f"{what}: {len(got)} answers to {len(expected)} inputs")
        if not different:
            return
        self.found["different"] += len(different)
        shown = [self.shrink(what, inputs[i]) for i in sorted(
            different, key=lambda i: len(inputs[i]))[:2]]
        for value in shown:
            ours, theirs = self.both(what, [value])
            self.found["failures"].append(
                f"{what} ({len(different)} of {len(inputs)}): {json.dumps(value)} gives "
                f"{json.dumps(ours[0])} instead of {json.dumps(theirs[0])}")
        (self.folder / f"{what}.different.jsonl").write_text(
            "".join(json.dumps(value) + "\n" for value in shown))

    def both(self, what, values):
        flags = ("--decode",) if what == "decode" else ()
        theirs = getattr(self.reference, what)(values)
        return answers_of(self.binary, self.folder, values, *flags), theirs

    def shrink(self, what, value):
        """A shorter input that still differs."""
        for _ in range(8):
            sizes = {max(1, len(value) >> shift) for shift in range(1, 8)}
            shorter = [value[:at] + value[at + size:] for size in sorted(sizes, reverse=True)
                       for at in range(0, len(value), size) if size < len(value)][:1000]
            if not shorter:
                break
            ours, theirs = self.both(what, shorter)
            still = next((v for v, o, t in zip(shorter, ours, theirs) if o != t), None)
            if still is None:
                break
            value = still
        return value


def copied(root, name, source, *files):
    folder = program.folder_for(root, name)
    shutil.rmtree(folder)
    folder.mkdir()
    for file in files:
        if (source / file).exists():
            shutil.copy(source / file, folder / file)
    return folder


def finished(case, seed, count):
    try:
        found = case.run(seed, count)
    except Exception:  # a driver that stops at its own fault would hide the rest
        case.found["failures"].append(traceback.format_exc())
        found = case.found
    if not found["failures"]:
        shutil.rmtree(case.folder)
    return found


def compare_family(binary, root, source, kind, seed, count):
    """A real tokenizer: `kind` is "tokenizer.json" or "tokenizer.model" in the folder `source`."""
    source = pathlib.Path(source)
    name = f"{source.name} {kind}"
    folder = copied(root, f"tokenizer-{source.name}-{kind[10:]}", source, kind)
    reference = HuggingFace(folder) if kind.endswith("json") else SentencePiece(folder)
    return finished(TokenizerCase(binary, folder, reference, name), f"{seed} {name}", count)


def compare_random(binary, root, seed, index, count):
    """A random tokenizer.json."""
    import tokenizer_files
    folder = program.folder_for(root, f"tokenizer-{seed}-{index}")
    made = tokenizer_files.random_tokenizer(f"{seed} tokenizer {index}")
    made.save(str(folder / "tokenizer.json"))
    case = TokenizerCase(binary, folder, HuggingFace(folder), f"random {index}")
    return finished(case, f"{seed} random {index}", count)
