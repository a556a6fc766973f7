"""The one command `gato`: a table of verbs, each a function in `gato/cli/` that calls a room.

Rooms are imported when their verb runs, so `gato --help` imports no torch. Bad input ends in one line
on standard error and exit code 2, a bug of ours in one line and 70 (`gato/cli/fault.py`); `GATO_DEBUG=1` shows the
traceback instead. `gato/cli/arguments.py` parses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

from . import correction, data, dream, inspection, look, measure, recipes, serving, speak, train
from .command import one_line
from .fault import describe, is_refusal, threads_reported
from .output import only_documents, wants_json
from .threads import wait_passively, without_gpu

USAGE = """gato: one transformer for text, pictures, discrete and continuous values

  gato data collect|import|export|validate ... make, convert, check stores of episodes
  gato data reference                          fetch and build the reference mixture
  gato data inspect|show MIX|STORE             what a mixture or a store holds; the very row training saw, or an episode
  gato data similar STORE --checkpoint CKPT    which known tasks those of a store are like
  gato tokenizer train STORE|FILE...           train the text tokenizer
  gato tokenize KIND VALUES...                 show how values become ids
  gato pretrain RECIPE                         train (or resume) a model; --nproc N on several ranks
  gato finetune CKPT --data STORE --env ID     learn a new task from 1, 10, 100 demonstrations
  gato eval CKPT                               act, caption, and score with intervals
  gato correct CKPT --out STORE                take over while it acts; what was corrected becomes demonstrations
  gato arena CKPT... --tasks T                 several checkpoints on the same tasks and demonstrations, one page
  gato dream CKPT                              what a world model imagines, beside what really happens: numbers and pictures
  gato caption CKPT IMAGE...                   caption pictures, or answer a --question about them
  gato chat CKPT                               talk with a model, perhaps about an --image
  gato generate CKPT TEXT                      continue text
  gato serve CKPT                              act for robots and programs: websocket and HTTP
  gato export CKPT OUT --to lerobot            as a policy of LeRobot's programs
  gato push CKPT OWNER/NAME | pull OWNER/NAME  a checkpoint to a hub with a card, and from there
  gato demo CKPT                               a web page of a model, on this computer
  gato show SIZE|CKPT                          parameters by part, tasks of a checkpoint; --attention IMAGE|STORE
  gato validate CKPT                           read every file of a checkpoint; exit code 1 if one is damaged
  gato plot RUN...                             report of a run as one HTML page, losses of several; --embeddings CKPT
  gato ls | gato cp RECIPE FILE                shipped recipes
  gato doctor                                  what is installed, missing, and why

'gato VERB --help' lists a verb's options; GATO_DEBUG=1 shows the traceback of an error.
Exit codes: 0, 1 a check failed or a part could not be done, 2 bad input, 70 a bug of ours, 130 interrupted."""


VERBS: dict[str, Any] = {
    "data": {
        "collect": data.collect,
        "reference": data.reference,
        "import": data.import_,
        "export": data.export,
        "validate": data.validate,
        "inspect": inspection.inspect,
        "similar": data.similar,
        "show": inspection.show,
    },
    "tokenizer": {"train": data.train_tokenizer},
    "tokenize": look.tokenize,
    "pretrain": train.pretrain,
    "finetune": train.finetune,
    "eval": measure.evaluate,
    "correct": correction.correct,
    "arena": measure.arena,
    "caption": speak.caption,
    "generate": speak.generate,
    "chat": speak.chat,
    "dream": dream.dream,
    "serve": serving.serve,
    "export": serving.export,
    "push": serving.push,
    "pull": serving.pull,
    "demo": speak.demo,
    "show": look.show,
    "validate": look.validate,
    "plot": measure.plot,
    "ls": recipes.ls,
    "cp": recipes.cp,
    "doctor": look.doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 1 for a failed check, 2 for bad input, 70 for a bug of ours, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wait_passively()
    os.environ.update(without_gpu() | os.environ)
    try:
        with threads_reported(arguments), only_documents(to_the_last=argv is None) if wants_json(arguments) else nullcontext():
            code = _run(list(arguments)) or 0
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # --help and --print_config leave by it
        if isinstance(leaving.code, str):  # as a library may
            print(f"gato: {' '.join(leaving.code.split())}", file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        goes_on = "; the same line goes on with the cell that it was in" if arguments[:1] in (["finetune"], ["arena"]) else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it flushes
        return 0
    except BaseException as error:  # libraries in Rust panic with a BaseException
        if os.environ.get("GATO_DEBUG"):
            raise
        line, code = (one_line(error), 2) if is_refusal(error) else describe(error, arguments)
        print(f"gato: {line}", file=sys.stderr)
        return code


def _run(arguments: list[str]) -> int | None:
    arguments = _imported(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        from gato import __version__

        print(__version__)
        return 0
    words: list[str] = []
    table = VERBS
    while arguments:
        word = arguments.pop(0)
        if words and word in ("-h", "--help"):
            print(f"gato {' '.join(words)} {'|'.join(table)}; 'gato {' '.join(words)} {next(iter(table))} --help' lists options")
            return 0
        words.append(word)
        if word not in table:
            near = get_close_matches(word, table, n=1)
            hint = f"did you mean '{' '.join([*words[:-1], near[0]])}'?" if near else f"known are {', '.join(table)}"
            raise ValueError(f"there is no verb '{' '.join(words)}'; {hint}")
        entry = table[word]
        if not isinstance(entry, dict):
            return entry(arguments)
        table = entry
    raise ValueError(f"'gato {' '.join(words)}' needs one of {', '.join(table)}")


def _imported(arguments: list[str]) -> list[str]:
    """The words without `--import MODULE`, which any verb takes: the modules are imported, so that names can mean what they register."""
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*rest, word, *words]
        if word == "--import" or word.startswith("--import="):
            module = word.partition("=")[2] or next(words, "")
            if not module or module.startswith("-"):
                raise ValueError("--import needs the name of a module, such as --import myenvs")
            from gato.envs import own

            own.bring(module)
        else:
            rest.append(word)
    return rest
