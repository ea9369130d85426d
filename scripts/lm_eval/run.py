#!/usr/bin/env python3
"""lm-evaluation-harness with Spillway as its model: the options of `lm_eval`.

    scripts/lm_eval/run.py --tasks arc_easy --model_args model=Qwen/Qwen2.5-7B,ram=6GiB
"""
import sys

COMMANDS = ("run", "ls", "validate")


def with_model(arguments):
    """`--model spillway` where a command takes it and none is named."""
    command = arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else ["run"]
    rest = arguments[1:] if arguments[:1] == command else arguments
    return command + (["--model", "spillway"] if command == ["run"] and rest else []) + rest


def main():
    try:
        import spillway_lm
        from lm_eval.__main__ import cli_evaluate
    except ImportError as missing:
        sys.exit(f"run.py: no {missing.name} for Python here (pip install lm_eval)")
    sys.argv[1:] = with_model(sys.argv[1:])
    try:
        cli_evaluate()
    except spillway_lm.SpillwayError as error:
        sys.exit(f"{spillway_lm.SAYS}{error}")
    except KeyboardInterrupt:
        sys.exit(spillway_lm.STOPPED)


if __name__ == "__main__":
    main()
