"""The command line's words: commands, options, their help and examples. Reads nothing, imports nothing of weight."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TypeAlias

from unrollbench import __version__
from unrollbench.case import DEVICES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DATABASE = Path("reports/unrollbench.db")
"""Where all runs go unless --db says otherwise."""
REPORTS = Path("reports")
"""Where each run's folder of results goes unless --out says otherwise."""

EXIT_CODES = """\
exit codes:
  0    done
  2    a wrong option, suite or file, or a fault in unrollbench itself
  4    a case failed, crashed, ran out of time or memory, or is missing
  5    nothing to compare: no case was left, or all were skipped
  130  interrupted (what is finished is kept; the message says how to go on)
Of several, the first of 2, 4, 5, 0 that applies."""

FILTERS = """\
filters (all of them must fit):
  execution=static         an axis has this value, or one of several: cell=lstm,gru
  mode!=train              it has not
  sequence_length>=32      numbers also compare with < <= > >=
  "lstm/static*"           a pattern for the case's label, as `unrollbench plan` shows it"""


def parser() -> argparse.ArgumentParser:
    """Everything that can be asked on the command line; `command` in the result names what was asked."""
    top = argparse.ArgumentParser(
        prog="unrollbench",
        description="Measures, for a recurrent network on this machine, whether the time loop should be\n"
        "unrolled, and how far: what it costs to build, what it gains at run time, and what\nmemory it takes.",
        epilog=_examples(
            "unrollbench run smoke                  the main job in under a minute",
            "unrollbench suites                     what else there is to run",
            "unrollbench run --help                 what a command can do, with examples",
            more=EXIT_CODES,
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"unrollbench {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run(commands)
    _plan(commands)
    _show(commands)
    _report(commands)
    _export(commands)
    _env(commands)
    _ceilings(commands)
    _check_backend(commands)
    _suites(commands)
    return top


def _run(commands: Commands) -> None:
    command = _command(
        commands,
        "run",
        "measure a suite and write its report",
        "Builds each case of a suite in a process of its own, proves that it computes the right numbers, measures it, "
        "stores it at once, and writes results.csv, samples.csv and report.html; ratios.csv too where our kernels and "
        "other backends ran the same networks. Before the first case it measures the ceilings that bind the cases.",
        _examples(
            "unrollbench run smoke",
            "unrollbench run seeds --filter cell=lstm --repeats 3",
            "unrollbench run my_suite.toml --axis sequence_length=8,64,512 --axis threads=2",
            "unrollbench run tensorflow_benchmark --budget 5m",
            "unrollbench run smoke --resume                      goes on with the last run of smoke",
            more=f"{FILTERS}\n\n{EXIT_CODES}",
        ),
    )
    _suite(command, nargs="?")
    _choice(command)
    command.add_argument(
        "--repeats", type=_positive, metavar="N", help="fresh processes per case (default: the suite's)"
    )
    _database(command)
    _folder(command)
    command.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run that was cut short, by default the last one of this suite; finished cases are kept",
    )
    command.add_argument("-y", "--yes", action="store_true", help="do not ask before a long or large run")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress and no question: only the result")


def _plan(commands: Commands) -> None:
    command = _command(
        commands,
        "plan",
        "list what `run` would measure, and what to expect of it",
        "Lists the key and the label of every case that `run` would measure with the same options, in its order, with "
        "the time and the memory to expect. Measures nothing.",
        _examples(
            "unrollbench plan smoke",
            'unrollbench plan layers --filter "sequence_length<=100" --budget 10m',
            more=FILTERS,
        ),
    )
    _suite(command)
    _choice(command)


def _show(commands: Commands) -> None:
    command = _command(
        commands,
        "show",
        "print the generated program of one case",
        "Builds one case and prints the program that was generated for it: static has one copy of the step per layer "
        "and time step, dynamic a loop. The case is named by its axes, by its key, or by a suite and filters.",
        _examples(
            "unrollbench show execution=static sequence_length=8",
            "unrollbench show execution=dynamic unroll=4 mode=train --graph | dot -Tsvg > graph.svg",
            "unrollbench show smoke --filter execution=static --filter sequence_length=8 --filter mode=forward",
            "unrollbench show 311f4afb748f632f                  a key from `plan` or results.csv",
            more=FILTERS,
        ),
    )
    command.add_argument("what", nargs="+", metavar="CASE|SUITE", help="axis=value pairs, a case's key, or a suite")
    command.add_argument("--filter", action="append", default=[], metavar="EXPR", help="with a suite: which case")
    command.add_argument("--graph", action="store_true", help="the dataflow graph in DOT instead of the program")
    _database(command)


def _report(commands: Commands) -> None:
    command = _command(
        commands,
        "report",
        "write a stored run's files again and print its summary",
        "Writes results.csv, samples.csv and report.html of a stored run and prints the summary that ended it. A run "
        "that is not finished is reported as far as it has come.",
        _examples(
            "unrollbench report                                  the newest run",
            "unrollbench report 20261121-0142 --out report       a run by the beginning of its id",
            more=f"Exits as the run did.\n\n{EXIT_CODES}",
        ),
    )
    _stored(command)


def _export(commands: Commands) -> None:
    command = _command(
        commands,
        "export",
        "write a stored run in another format",
        "Writes a stored run in the format named: csv is results.csv, a row per case and process with all axes and all "
        "metrics, samples.csv a row per timed sample, and ratios.csv, where our kernels and other backends ran the "
        "same networks, a row per network and other backend.",
        _examples(
            "unrollbench export csv                              the newest run",
            "unrollbench export csv 20261121-0142 --out data",
        ),
    )
    command.add_argument("format", choices=("csv",), help="csv")
    _stored(command)


def _env(commands: Commands) -> None:
    _command(
        commands,
        "env",
        "show this machine, and which backends can run on it",
        "Shows what a run records about this machine, its GPU or the reason why CUDA is missing included, and each "
        "backend with the versions that it runs on or with the reason why it is missing and the command that installs "
        "it.",
        _examples("unrollbench env"),
    )


def _ceilings(commands: Commands) -> None:
    command = _command(
        commands,
        "ceilings",
        "measure this machine's limits: multiply-adds, memory bandwidth, barriers",
        "Measures the most multiply-adds per second that the processor does in registers, also in pairs with a "
        "third fewer multiplications if it adds on units of their own, of float32 also on its matrix unit (AMX) if it "
        "has one, and the most bytes per second that it reads from working sets of growing size, with the code that "
        "the cells use. Hold the GFLOP/s of results.csv against the highest of the first; a single row's weights "
        "stream at the second. Of several threads also how often they can wait for each other: "
        "on a virtual machine whose host moves its processors that changes, and with it what a second thread brings. "
        "Of a GPU the same, for the whole of it, tensor cores left aside; "
        "without one, the driver's reason and exit code 2.",
        _examples(
            "unrollbench ceilings",
            "unrollbench ceilings --threads 1",
            "unrollbench ceilings --device cuda                  needs a GPU and backend numba_cuda",
        ),
    )
    command.add_argument("--device", choices=DEVICES, default="cpu", help="what to measure (default: cpu)")
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="threads, each on a processor of its own (default: 1, then all)"
    )


def _check_backend(commands: Commands) -> None:
    command = _command(
        commands,
        "check-backend",
        "check that a backend computes what it must",
        "Holds a backend, built in or from another package, against the float64 reference: outputs and gradients of "
        "small networks in every execution, the settings that must change nothing, and that a second run compiles "
        "nothing. What the backend declines is skipped with its reason.",
        _examples(
            "unrollbench check-backend numba_cpu",
            "unrollbench check-backend torch --device cuda",
            "NUMBA_ENABLE_CUDASIM=1 unrollbench check-backend numba_cuda     without a GPU, in the simulator",
        ),
    )
    command.add_argument("backend", metavar="NAME", help="a backend, as `unrollbench env` lists them")
    command.add_argument(
        "--device", choices=DEVICES, help="where it is to run (default: the first of these on which it runs anything)"
    )


def _suites(commands: Commands) -> None:
    command = _command(
        commands,
        "suites",
        "list the installed suites, or print one",
        "Lists the installed suites with the question that each answers, or prints one suite's text, to be copied and "
        "changed.",
        _examples("unrollbench suites", "unrollbench suites smoke > my_suite.toml"),
    )
    command.add_argument("suite", nargs="?", metavar="SUITE", help="print the text of this one")


def _command(commands: Commands, name: str, title: str, text: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=title,
        description=textwrap.fill(text, 88),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _suite(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    text = "an installed suite (see `unrollbench suites`) or a TOML file"
    command.add_argument("suite", metavar="SUITE", nargs=nargs, help=text)


def _choice(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="put these values, separated by commas, in the place of the suite's",
    )
    command.add_argument("--filter", action="append", default=[], metavar="EXPR", help="only the cases that fit")
    command.add_argument(
        "--budget",
        metavar="TIME",
        help="as many cases as may be expected to take this long, such as 90s or 5m; the cheapest comparisons first",
    )


def _stored(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", nargs="?", metavar="RUN", help="a run's id or its beginning (default: the newest run)")
    _database(command)
    _folder(command)


def _database(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--db", type=Path, default=DATABASE, metavar="FILE", help=f"the database of runs (default: {DATABASE})"
    )


def _folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=Path, metavar="DIR", help=f"the folder for the files (default: {REPORTS}/SUITE-RUN)"
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected an integer >= 1")
    return int(text)


def _examples(*lines: str, more: str = "") -> str:
    shown = "\n".join(f"  {line}" for line in lines)
    return f"examples:\n{shown}" + (f"\n\n{more}" if more else "")
