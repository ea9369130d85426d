#!/usr/bin/env python3
"""Draws what a command leaves on a terminal of 80 columns as an SVG.
Usage: terminal_picture.py OUT.svg [--show TEXT] COMMAND [ARGUMENT ...]

The command really runs, on a terminal of its own; `--show` is what stands behind the dollar where that
differs (a path that is nobody else's). Knows what Spillway says: text, line ends, CSI A, J, K and m."""
import fcntl
import html
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

COLUMNS = 80
CHARACTER = 8.4   # width of a monospace glyph at FONT px
FONT = 14
LINE = 19
MARGIN = 18
BAR = 34


def record(command):
    """All that the command wrote to its terminal. Raises where it fails."""
    terminal, side = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=side, stderr=side,
                               env={**os.environ, "TERM": "xterm-256color"})
    os.close(side)
    data = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        data += piece
    if process.wait() != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{data.decode(errors='replace')}")
    return data.decode()


def rows_of(text):
    """What stands there at the end: rows of (character, bold)."""
    rows, row, at, bold = [[]], 0, 0, False
    for match in re.finditer(r"\x1b\[(\d*)([A-Za-z])|(.)", text, re.S):
        count, command, c = match.groups()
        if command == "m":
            bold = count == "1"
        elif command == "A":
            row = max(0, row - int(count or 1))
        elif command == "J":
            rows[row] = rows[row][:at]
            del rows[row + 1:]
        elif command == "K":
            rows[row] = rows[row][:at]
        elif c == "\r":
            at = 0
        elif c == "\n" or (c and at == COLUMNS):
            row, at = row + 1, 0
            if row == len(rows):
                rows.append([])
        if c and c not in "\r\n":
            line = rows[row]
            line.extend([(" ", False)] * (at + 1 - len(line)))
            line[at] = (c, bold)
            at += 1
    while rows and not rows[-1]:
        rows.pop()
    return rows


def spans(row):
    """Runs of equal weight, each at its column: glyphs of another width move nothing."""
    pieces = []
    for column, (c, bold) in enumerate(row):
        if pieces and pieces[-1][1] == bold:
            pieces[-1][2] += c
        else:
            pieces.append([column, bold, c])
    return pieces


def svg(command, rows):
    width = COLUMNS * CHARACTER + 2 * MARGIN
    height = BAR + (len(rows) + 1) * LINE + MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
           f"<title>{html.escape(command)}</title>",
           "<style>text{font:" + f"{FONT}px" + " ui-monospace,SFMono-Regular,Menlo,Consolas,"
           "'DejaVu Sans Mono',monospace;fill:#d6dbe1;white-space:pre}.b{font-weight:700;fill:#fff}"
           ".d{fill:#7ee787}</style>",
           f'<rect width="{width:.0f}" height="{height:.0f}" rx="9" fill="#12161c"/>']
    for i, colour in enumerate(("#f2665f", "#f4bd4f", "#5bc466")):
        out.append(f'<circle cx="{20 + 20 * i}" cy="18" r="6" fill="{colour}"/>')

    def line(number, column, text, name):
        used = f' class="{name}"' if name else ""
        length = len(text) * CHARACTER
        out.append(f'<text x="{MARGIN + column * CHARACTER:.1f}" y="{BAR + number * LINE + FONT:.0f}" '
                   f'textLength="{length:.1f}" xml:space="preserve"{used}>{html.escape(text)}</text>')

    line(0, 0, "$ ", "d")
    line(0, 2, command, "b")
    for number, row in enumerate(rows, 1):
        for column, bold, text in spans(row):
            if text.strip():
                blanks = len(text) - len(text.lstrip(" "))
                line(number, column + blanks, text.strip(" "), "b" if bold else "")
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    arguments = sys.argv[1:]
    if len(arguments) < 2:
        sys.exit(__doc__)
    target = arguments.pop(0)
    shown = None
    if arguments[0] == "--show":
        shown = arguments[1]
        arguments = arguments[2:]
    picture = svg(shown or shlex.join(arguments), rows_of(record(arguments)))
    with open(target, "w", encoding="utf-8") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
