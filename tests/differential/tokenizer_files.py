"""Random tokenizer.json files: a small vocabulary, trained on random texts, behind every stage that
the program may meet."""
import json
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        trainers)

import texts

PATTERNS = (
    # GPT-2, Llama 3, Qwen 2, o200k, tekken, DeepSeek, StarCoder, BLOOM
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[一-龥぀-ゟ゠-ヿ]+", r"\p{N}{1,3}", r"\d{1,3}(?=(?:\d{3})*\b)", r"[0-9][0-9][0-9]",
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\s+", r"\w+|[^\w\s]+", r"\p{Han}+", r"\S+", r"\b", r"[\r\n]",
    # where Oniguruma and PCRE2 part
    r"$", r"^", r"^\s+", r"\s+$", r"\h+", r"[\w&&[^\d]]+", r"[a-z&&[^aeiou]]+", r"\A.", r".+", r"\Z",
    r"[^\S\n]+", r"\R", r"(?m:^.)", r"(?s:.{3})", r"[[:alpha:]]+", r"[[:space:]]+", r"\X", r"(?i)ss|k",
    r"\p{^L}+", r"\P{L}+", r"\x20", r"\x{2028}", r"(?<=a)b", r"a(?=b)",
    r"\p{Alpha}+", r"[\p{L}\p{M}]+", r"\D+", r"\W", r"[^\d]", r"x*", r"(a|ab)(c|bcd)?", r"\p{Lu}\p{Ll}+")
LITERALS = (" ", "a", "the", "\n", ".", "\u2581", "  ", "\\", "ab", "\u00e9", "\\E")
BEHAVIORS = ("isolated", "isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous")
MARK = "\u2581"


def normalizer(rng):
    kinds = (normalizers.NFC, normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD,
             normalizers.Lowercase,
             lambda: normalizers.Strip(rng.random() < 0.7, rng.random() < 0.7),
             lambda: normalizers.Replace(Regex(rng.choice([r"\s+", r" {2,}", r"\p{M}", r"[0-9]", r"(a|b)c?",
                                                           r"\n", r"e+"])), rng.choice([" ", "", "x", "$1"])),
             lambda: normalizers.Replace(rng.choice(LITERALS), rng.choice(["", " ", "_", "aa"])),
             lambda: normalizers.Prepend(rng.choice([MARK, "x ", " "])))
    chosen = [rng.choice(kinds)() for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    if not chosen:
        return None
    return chosen[0] if len(chosen) == 1 else normalizers.Sequence(chosen)


def split(rng):
    pattern = Regex(rng.choice(PATTERNS)) if rng.random() < 0.85 else rng.choice(LITERALS)
    return pre_tokenizers.Split(pattern, rng.choice(BEHAVIORS), rng.random() < 0.25)


def splitter(rng):
    kinds = (split, split, split, split,
             lambda r: pre_tokenizers.Digits(r.random() < 0.5),
             lambda r: pre_tokenizers.Punctuation(r.choice(BEHAVIORS)),
             lambda r: pre_tokenizers.Whitespace(), lambda r: pre_tokenizers.WhitespaceSplit())
    return rng.choice(kinds)(rng)


def byte_level(rng):
    """Byte-level BPE with random splits before the bytes."""
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < 0.25, use_regex=rng.random() < 0.4)
    before = [splitter(rng) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before + [last]) if before else last
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=rng.choice([300, 500, 900]), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, trainer


def marked(rng, tokenizer):
    """Spaces as U+2581, by a normalizer as Llama 2 does it or by Metaspace."""
    decoding = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rng.random() < 0.5:
        prepend = [normalizers.Prepend(MARK)] if rng.random() < 0.7 else []
        replace = normalizers.Replace(" ", MARK)
        tokenizer.normalizer = normalizers.Sequence(prepend + [replace])
        if prepend:
            decoding.append(decoders.Strip(" ", 1, 0))
        tokenizer.decoder = decoders.Sequence(decoding)
        return
    scheme, cut = rng.choice(["always", "first", "never"]), rng.random() < 0.6
    before = [splitter(rng)] if rng.random() < 0.2 else []
    mark = pre_tokenizers.Metaspace(MARK, scheme, cut)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before + [mark]) if before else mark
    if rng.random() < 0.5:
        tokenizer.decoder = decoders.Metaspace(MARK, scheme, cut)
    else:
        if scheme != "never":
            decoding.append(decoders.Strip(" ", 1, 0))
        tokenizer.decoder = decoders.Sequence(decoding)


BYTES = [f"<0x{b:02X}>" for b in range(256)]


def sentencepiece_bpe(rng):
    fallback = rng.random() < 0.7
    unknown = "<unk>" if fallback or rng.random() < 0.7 else None
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=rng.random() < 0.6,
                                     byte_fallback=fallback))
    marked(rng, tokenizer)
    special = (["<unk>"] if unknown else []) + (BYTES if fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=rng.choice([500, 900]), show_progress=False,
                                  special_tokens=special, limit_alphabet=rng.choice([60, 150]))
    return tokenizer, trainer


def unigram(rng):
    tokenizer = Tokenizer(models.Unigram())
    marked(rng, tokenizer)
    trainer = trainers.UnigramTrainer(vocab_size=rng.choice([600, 900]), show_progress=False,
                                      unk_token="<unk>", special_tokens=["<unk>"])
    return tokenizer, trainer


def add_tokens(rng, tokenizer):
    contents = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "ing", "é", " the", "  ", "the ",
                "Hello", MARK + "a", "\n", "<|end", "<|endoftext|>", "AB", "ab", "fi"]
    for content in rng.sample(contents, rng.randrange(0, 7)):
        special = rng.random() < 0.5
        token = AddedToken(content, lstrip=rng.random() < 0.3, rstrip=rng.random() < 0.3,
                           single_word=rng.random() < 0.25,
                           normalized=rng.random() < (0.2 if special else 0.6), special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])


def without_added_bytes(tokenizer):
    """The trainer takes bytes for special tokens; in real files they are plain ones."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(content))


def random_tokenizer(seed):
    rng = random.Random(seed)
    tokenizer, trainer = rng.choice([byte_level, byte_level, sentencepiece_bpe, unigram])(rng)
    if tokenizer.normalizer is None:
        made = normalizer(rng)
        if made is not None:
            tokenizer.normalizer = made
    corpus = list(texts.PIECES)  # a Unigram vocabulary must hold every character of its corpus
    if not isinstance(trainer, trainers.UnigramTrainer):
        corpus += [texts.random_text(rng, []) for _ in range(400)]
    corpus += [" ".join(rng.choices(texts.WORDS, k=12)) for _ in range(200)]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer = without_added_bytes(tokenizer)
    add_tokens(rng, tokenizer)
    return tokenizer
