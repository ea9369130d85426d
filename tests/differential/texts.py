"""Random texts that tokenizers get wrong: every script, marks, spaces, controls, broken words."""
import random

RANGES = ((0x20, 0x7E), (0x00, 0x1F), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2FF), (0x300, 0x36F),
          (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
          (0xE00, 0xE7F), (0xF00, 0xFFF), (0x1100, 0x11FF), (0x1800, 0x180F), (0x1E00, 0x1EFF),
          (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x209F), (0x2100, 0x214F), (0x2150, 0x218F),
          (0x2460, 0x24FF), (0x2500, 0x257F), (0x2E80, 0x2EFF), (0x3000, 0x303F), (0x3040, 0x30FF),
          (0x3200, 0x33FF), (0x4E00, 0x4EFF), (0xA640, 0xA69F), (0xAC00, 0xACFF), (0xE000, 0xE0FF),
          (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFE30, 0xFE6F), (0xFF00, 0xFFEF),
          (0xFFF0, 0xFFFF), (0x10000, 0x100FF), (0x10400, 0x1044F), (0x1D400, 0x1D7FF),
          (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF), (0x20000, 0x200FF), (0xE0000, 0xE007F),
          (0x10FFF0, 0x10FFFF))
SPACES = (" ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\v", "\f", "\x1c", "\x1f", "\x85",
          "\xa0", "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200b", "\u2028", "\u2029",
          "\u202f", "\u205f", "\u3000", "\ufeff", " \n", "\n ", "\t\t", "    ")
PIECES = ("'s", "'S", "'t", "'re", "'VE", "'ll", "'LL", "'m", "'d", "\u2019s", "don't", "I'M", "'\u017f",
          "\u212aelvin", "0", "12", "123", "1234567", "3.14", "1,000", "\u0663\u0664", "\u2162",
          "\u00bd", "\u00b2", "x86_64", "<", ">", "</", "/>", "//", "/*", "==", "!=", "...", "\u2026",
          "--", "\u2014", "#!", "$", "^", "\\", "\\n", "\"", "`", "~", "|", "||", "&&", "@", "%", "{}",
          "[]", "()", "(s|t)", "e\u0301", "\u00e9", "\u0065\u0323\u0301", "\u1e69", "s\u0323\u0307",
          "\u0344", "\u0958", "\u2126", "\ufb01", "\uac00", "\u1100\u1161\u11a8", "\u0e33", "\u0e01\u0e33",
          "\U0001f469\u200d\U0001f4bb", "\u2764\ufe0f", "\U0001f1eb\U0001f1f7", "\U0001f44d\U0001f3fd",
          "\u4f60\u597d", "\u3053\u3093\u306b\u3061\u306f", "\ud55c\uad6d\uc5b4", "\u041f\u0440\u0438\u0432\u0435\u0442",
          "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947",
          "\u2581", "\u2581\u2581", "\u0120", "\u010a", "<0x0A>", "\u0130", "\u0131", "\u00df", "\u1e9e", "\u03c3\u03c2",
          "\ufffd", "\0", "http://a.b/c?d=e&f", "foo_bar", "FooBar", "fooBar", "FOO", "HTTPServer")
WORDS = ("the", "The", "of", "and", "token", "Hello", "world", "model", "straße", "naïve", "über",
         "return", "function", "import", "void", "if", "else", "a", "I", "an", "ing", "ed",
         "unbelievable", "internationalization", "def", "self", "print", "the quick brown fox")


def character(rng):
    while True:
        low, high = rng.choice(RANGES) if rng.random() < 0.9 else (0, 0x10FFFF)
        point = rng.randint(low, high)
        if not 0xD800 <= point < 0xE000:
            return chr(point)


def of_one_kind(rng):
    """A run of one range, or of one character."""
    low, high = rng.choice(RANGES)
    one = chr(rng.randint(low, high))
    length = rng.choice([1, 2, 3, 5, 9, 20])
    if rng.random() < 0.3:
        return one * length
    return "".join(chr(rng.randint(low, high)) for _ in range(length))


def cut(rng, word):
    """A part of a word, or the word with something between its letters."""
    at = rng.randrange(len(word) + 1)
    return rng.choice([word[:at], word[at:], word[:at] + rng.choice(SPACES) + word[at:],
                       word.upper(), word.lower(), word + word])


def piece(rng, own):
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(WORDS)
    if kind < 0.45:
        return rng.choice(SPACES)
    if kind < 0.65:
        return rng.choice(PIECES)
    if kind < 0.75:
        return of_one_kind(rng)
    if kind < 0.85:
        return character(rng)
    word = rng.choice(own) if own else rng.choice(WORDS)
    return word if kind < 0.95 else cut(rng, word)


def random_text(rng, own):
    """`own`: words of the tokenizer itself, such as its added tokens."""
    count = rng.choice([0, 1, 1, 2, 2, 3, 4, 6, 10, 20])
    between = rng.choice(["", "", " ", None])
    parts = [piece(rng, own) for _ in range(count)]
    if between is None:
        return "".join(part + rng.choice(["", " "]) for part in parts)
    return between.join(parts)


def random_texts(seed, own, count):
    rng = random.Random(seed)
    texts = [random_text(rng, own) for _ in range(count - 2)]
    return texts + ["".join(texts[:count // 20]), " ".join(texts[:count // 100])]
