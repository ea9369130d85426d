#!/usr/bin/env python3
"""Every text of the sources that a person may be told: of errors, refusals, notices and progress,
one a line with its place, to be read as a whole. Usage: messages.py [--plain]

A text is what stands in quotes inside a call that tells somebody something (CALLS); the values that
are put into it are shown as {}. --plain leaves the places out."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("core", "io", "text", "data", "kernels", "tiers", "probe", "sinks", "model", "jobs", "compare", "cli")
CALLS = re.compile(r"\b(Error|BadDocument|BadPattern|Refusal|fail|bad|unsupported|refuse|cannot_read|wrong_kind|notice_?|say|"
                   r"throw_\w+|progress_?\.show|show|bad_yaml|unexpected)\(")
# Functions whose results become parts of a message.
PARTS = re.compile(r"^(?:std::)?string (?:\w+::)?(\w*(?:_text|_hint|_advice|advice_on|problem\w*|"
                   r"example|beyond\w*|did_you_mean|unknown_command|wrong_command|reason\w*))\(")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


def skip_string(text, at):
    """The end of the literal that begins at `at`."""
    at += 1
    while text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return at + 1


def balanced(text, at, open_, close):
    """The end of what `open_` at `at` begins."""
    depth = 0
    while at < len(text):
        if text[at] == '"':
            at = skip_string(text, at)
            continue
        if text[at] == "'" and text[at - 1] != "R":  # a character
            at += 4 if text[at + 1] == "\\" else 3 if text[at + 2] == "'" else 1
            continue
        if text.startswith("//", at):
            at = text.index("\n", at)
        depth += (text[at] == open_) - (text[at] == close)
        at += 1
        if depth == 0:
            return at
    return at


def literals(text):
    """Texts in quotes; those that only blanks part are one."""
    found = []
    end = None
    for match in LITERAL.finditer(text):
        if end is not None and not text[end:match.start()].strip():
            found[-1] += match.group(1)
        else:
            found.append(match.group(1))
        end = match.end()
    return [f for f in found if re.search(r"[A-Za-z]{2}", f)]


def messages_of(path):
    text = path.read_text()
    taken = 0
    for match in CALLS.finditer(text):
        line_begin = text.rfind("\n", 0, match.start()) + 1
        if match.start() < taken or "//" in text[line_begin:match.start()]:
            continue
        end = balanced(text, match.end() - 1, "(", ")")
        found = literals(text[match.end():end])
        if found:
            taken = end
            yield text.count("\n", 0, match.start()) + 1, " | ".join(found)
    for match in re.finditer(r"^[^\n]*$", text, re.M):
        if not PARTS.match(match.group()):
            continue
        begin = text.find("{", match.end() - 1 if match.group().endswith("{") else match.end())
        end = balanced(text, begin, "{", "}")
        # Those inside calls above are there already.
        for number, part in enumerate(literals(text[begin:end])):
            if len(part) > 12 or number == 0:
                yield text.count("\n", 0, match.start()) + 1, part


def all_messages():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".cpp", ".h", ".cu"}:
                for line, text in messages_of(path):
                    yield f"{path.relative_to(ROOT)}:{line}", text


def table():
    rows = list(all_messages())
    width = max(len(place) for place, _ in rows)
    seen = set()
    for place, text in rows:
        if text not in seen:
            seen.add(text)
            yield f"{place:<{width}}  {text}"


def main():
    if "--plain" in sys.argv:
        lines = sorted({text for _, text in all_messages()})
    else:
        lines = list(table())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
