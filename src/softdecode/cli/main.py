"""The command `softdecode`: finds the sub-command, runs it, and turns bad input into one line and exit code 2."""

import importlib
import logging
import sys
from collections.abc import Sequence

from softdecode.errors import SoftDecodeError

# Sub-command -> its module, which has `main(arguments)`. Imported only when run, so that --help is quick.
COMMANDS = {
    "generate": ("softdecode.cli.generate", "draw prompts: VQ and soft-decoded pictures side by side"),
    "reconstruct": ("softdecode.cli.reconstruct", "encode pictures and decode them again, both ways"),
    "calibrate": ("softdecode.cli.calibrate", "fit the encoder's proxy logits to the VLM's statistics"),
    "train": ("softdecode.cli.train", "train a tokenizer, VAE, VLM or decoder from a preset"),
    "evaluate reconstruction": ("softdecode.cli.evaluate_reconstruction", "measure every decoder on held-out pictures"),
    "evaluate generation": ("softdecode.cli.evaluate_generation", "measure drawn pictures against real ones"),
    "evaluate folders": ("softdecode.cli.evaluate_folders", "measure any pictures against reference pictures"),
    "evaluate draw": ("softdecode.cli.evaluate_draw", "draw a benchmark's prompts in the layout that it judges"),
    "evaluate geneval": ("softdecode.cli.evaluate_geneval", "summarise GenEval's judgements as it does"),
    "export": ("softdecode.cli.export", "collect trained runs in the layout that the library ships"),
    "convert-llamagen": ("softdecode.cli.convert_llamagen", "make a model folder of LlamaGen's checkpoint files"),
    "report": ("softdecode.cli.report", "make the paper's tables and plots from result files"),
    "doctor": ("softdecode.cli.doctor", "check a model folder: files, keys, hashes, one tiny decode"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in COMMANDS:
            return _run(name, words[length:])
    print(f"softdecode: error: unknown command {words[0]!r}; expected {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


def _run(name: str, rest: list[str]) -> int:
    # diffusers imports bitsandbytes where it is installed, which then tells of a faster CPU kernel in every process.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        importlib.import_module(COMMANDS[name][0]).main(rest)
    except SoftDecodeError as error:
        print(f"softdecode {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"softdecode {name}: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"softdecode {name}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as ended:  # tyro has said what is wrong
        return ended.code if isinstance(ended.code, int) else 2
    return 0


def _usage() -> str:
    lines = ["usage: softdecode COMMAND [options]   (softdecode COMMAND --help for each)", ""]
    lines += [f"  {name:<24} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
