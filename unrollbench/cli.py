"""The commands. The only file that prints or exits; everything that it needs is imported when it is needed."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from unrollbench.arguments import DATABASE, REPORTS, parser
from unrollbench.errors import NothingLeft, RunError, SuiteError, UnrollbenchError

if TYPE_CHECKING:
    from unrollbench.case import Case
    from unrollbench.plan import Plan
    from unrollbench.records import Run
    from unrollbench.roofline import Wanted
    from unrollbench.runner import Progress
    from unrollbench.store import Store

DONE, WRONG, FAILED, NOTHING, INTERRUPTED = 0, 2, 4, 5, 130
"""Exit codes; `arguments.EXIT_CODES` is what users are told about them."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a suite's title or a library's message could change a terminal with; new lines and tabs are harmless."""
ASK_FROM_S = 600.0
"""A run that is expected to take longer is started only after a question, where somebody can answer it."""


def entry() -> None:
    """The `unrollbench` command."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line asks and returns its exit code; every error is told on standard error."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to fail
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as end:  # argparse has printed help, the version or what was wrong
        return end.code if isinstance(end.code, int) else WRONG
    try:
        return COMMANDS[arguments.command](arguments)
    except NothingLeft as error:
        complain(str(error))
        return NOTHING
    except UnrollbenchError as error:
        complain(str(error))
        return WRONG
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a fault of ours must not end with exit code 1, "confirmed regression"
        complain(f"this is a fault in unrollbench, please report it: {type(error).__name__}: {error}")
        sys.stderr.write(traceback.format_exc())
        return WRONG


def _open_closed_streams() -> None:
    """Standard streams that the caller closed (`>&-`) lead nowhere, and no file opened later gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 it stays open


def say(text: str, stream: TextIO | None = None) -> None:
    """The text is on standard output, without control characters; nobody reading it (`| head`) is not an error.

    Raises UnrollbenchError if standard output takes nothing, as on a full disk; of standard error nobody could be told.
    """
    stream = stream or sys.stdout
    try:
        stream.write(CONTROL.sub(lambda found: ascii(found[0])[1:-1], text) + "\n")
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or what is buffered would fail again at the end
        if not isinstance(error, BrokenPipeError) and stream is not sys.stderr:
            raise UnrollbenchError(f"standard output: cannot be written to: {error.strerror}") from error


def complain(text: str) -> None:
    """The text is on standard error."""
    say(f"unrollbench: {text}", sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Measures a suite, or the rest of a run, writes its files and prints its summary."""
    from unrollbench.report.files import check_writable
    from unrollbench.store import Store

    planned = None if arguments.resume is not None else _planned(arguments)
    check_writable(arguments.out or REPORTS)
    with Store(arguments.db) as store:
        resumed = None
        if planned is None:
            resumed, planned = _resumed(arguments, store)
        if not _agreed(arguments, planned):
            return INTERRUPTED
        measured = _measured(arguments, planned, store, resumed)
    return INTERRUPTED if measured is None else _reported(measured, arguments.out)


def plan(arguments: argparse.Namespace) -> int:
    """Lists what `run` would measure."""
    from unrollbench.labels import label

    planned = _planned(arguments)
    for case in planned.cases:
        say(f"{case.key}  {label(case)}")
    say(_expectation(planned))
    return DONE


def show(arguments: argparse.Namespace) -> int:
    """Prints the generated program of one case, or its graph."""
    from unrollbench import probe
    from unrollbench.labels import label

    case = _chosen(arguments)
    listing = probe.listing(case)
    if not arguments.graph:
        say(f"# {label(case)}\n{listing.source}")
    elif listing.graph_dot is not None:
        say(listing.graph_dot)
    else:
        raise UnrollbenchError(f"{case.backend} draws no graph of its programs")
    return DONE


def report(arguments: argparse.Namespace) -> int:
    """Writes a stored run's files again and prints its summary."""
    return _reported(_stored(arguments), arguments.out)


def export(arguments: argparse.Namespace) -> int:
    """Writes a stored run in another format."""
    from unrollbench.report import csv
    from unrollbench.report.files import check_writable

    found = _stored(arguments)
    folder = _folder(found, arguments.out)
    check_writable(folder)
    for path in csv.write(found, folder):
        say(str(path))
    return DONE if found.measurements else NOTHING


def env(arguments: argparse.Namespace) -> int:
    """Shows the machine and the backends."""
    from unrollbench import backends, probe
    from unrollbench.case import DEVICES
    from unrollbench.measure.environment import environment
    from unrollbench.report.facts import facts

    machine = environment()
    here = facts(machine)
    if machine.facts["gpu"] is not None:
        here.insert(1, ("fingerprint with cuda", environment(devices=DEVICES).fingerprint))
    width = max(len(name) for name, _ in here)
    for name, text in here:
        say(f"{name:{width}}  {text}")
    say("\nbackends")
    width = max(len(name) for name in backends.names())
    for name in backends.names():
        found = probe.availability(name)
        versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
        say(f"  {name:{width}}  {f'missing: {found.reason}' if found.reason else versions or 'available'}")
    return DONE


def ceilings(arguments: argparse.Namespace) -> int:
    """Measures and shows this machine's limits."""
    from unrollbench import probe
    from unrollbench.report import wording
    from unrollbench.roofline import disturbance

    for title, wanted in _limits(arguments):
        limits = probe.ceilings([wanted])
        say(f"{title}, the best of several tries")
        width = max(len(wording.working_set(found)) for found in limits)
        for found in limits:
            why = disturbance(found)
            note = "" if why is None else f"  too low: {why}"
            say(f"  {found.name:12}  {wording.working_set(found):{width}}  {found.value:8.1f} {found.unit}{note}")
    return DONE


def _limits(arguments: argparse.Namespace) -> Iterator[tuple[str, Wanted]]:
    """What to measure, each with its title."""
    from unrollbench.measure.affinity import usable_cpus
    from unrollbench.roofline import Wanted

    if arguments.device == "cuda":
        if arguments.threads is not None:
            raise UnrollbenchError("--threads is for the processors: a GPU is measured as a whole")
        yield "the GPU, float32", Wanted(None, device="cuda")
        yield "the GPU, float64", Wanted(None, "float64", (), device="cuda")
        return
    available = len(usable_cpus())
    if arguments.threads is not None and arguments.threads > available:
        raise UnrollbenchError(f"--threads {arguments.threads}: only {available} processors can be used here")
    for threads in dict.fromkeys((1, available) if arguments.threads is None else (arguments.threads,)):
        yield f"{threads} thread{'s' * (threads > 1)}, float32", Wanted(threads)


def check_backend(arguments: argparse.Namespace) -> int:
    """Says of every statement that a backend must hold whether it does."""
    from unrollbench import probe

    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for found in probe.conformance(arguments.backend, arguments.device):
        counts[found.status] += 1
        say(f"{found.status:7}  {found.name}" + (f": {found.reason}" if found.reason else ""))
    say(f"{arguments.backend}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"]:
        return FAILED
    return DONE if counts["passed"] else NOTHING


def suites(arguments: argparse.Namespace) -> int:
    """Lists the installed suites, or prints one."""
    from unrollbench import suite

    if arguments.suite is not None:
        say(suite.load(arguments.suite).source.rstrip("\n"))
        return DONE
    for name in suite.names():
        loaded = suite.load(name)
        say(f"{name}: {loaded.title}\n    {loaded.question}")
    return DONE


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "plan": plan,
    "show": show,
    "report": report,
    "export": export,
    "env": env,
    "ceilings": ceilings,
    "check-backend": check_backend,
    "suites": suites,
}


def exit_code(measured: Run) -> int:
    """What the run's measurements amount to: 4 before 5 before 0."""
    statuses = {m.status for m in measured.measurements}
    if statuses - {"ok", "skipped"} or len(measured.measurements) < measured.planned:
        return FAILED
    return DONE if "ok" in statuses else NOTHING


def _planned(arguments: argparse.Namespace) -> Plan:
    """The plan of the suite, axes, filters, repeats and budget that were given."""
    from unrollbench import plan as planning
    from unrollbench import suite

    if arguments.suite is None:
        raise SuiteError([f"no suite: expected one of {', '.join(suite.names())}, or a TOML file"])
    chosen = suite.load(arguments.suite, axes=suite.parse_axes(arguments.axis))
    if getattr(arguments, "repeats", None) is not None:
        chosen = replace(chosen, repeats=arguments.repeats)
    planned = planning.make(chosen, filters=arguments.filter)
    return planned if arguments.budget is None else planning.fit(planned, planning.parse_duration(arguments.budget))


def _resumed(arguments: argparse.Namespace, store: Store) -> tuple[str, Plan]:
    """The run to go on with, and the plan of what it has left."""
    from unrollbench import suite
    from unrollbench.plan import Plan

    if arguments.axis or arguments.filter or arguments.budget or arguments.repeats:
        raise RunError("--resume goes on with the run's own plan: leave out --axis, --filter, --budget and --repeats")
    name = None if arguments.suite is None else Path(arguments.suite).stem
    runs = [found for found in store.runs() if name in (None, found.suite) and found.id.startswith(arguments.resume)]
    unfinished = [found for found in runs if store.pending(found.id)]
    if not unfinished:
        whose = f" of {name}" if name else ""
        wanted = f" {arguments.resume!r}" if arguments.resume else ""
        raise RunError(f"{arguments.db}: no run{wanted}{whose} that has anything left to do")
    found = unfinished[-1]
    source = suite.parse(found.suite_source, name=found.suite, origin=f"run {found.id}")
    left = store.pending(found.id)
    rounds = len({repeat for _, repeat in left})
    return found.id, Plan(replace(source, repeats=rounds), tuple(dict.fromkeys(case for case, _ in left)))


def _agreed(arguments: argparse.Namespace, planned: Plan) -> bool:
    """What to expect has been said, and whoever can be asked about a long run has agreed."""
    from unrollbench.plan import estimate

    if arguments.quiet:
        return True
    say(_expectation(planned))
    expected = estimate(planned)
    if arguments.yes or expected.seconds < ASK_FROM_S or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write("Start? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return answer.strip().lower() in ("y", "yes") or answer == "\n"


def _expectation(planned: Plan) -> str:
    """How many cases, how long, how much memory and disk, and what a budget left out."""
    from unrollbench.measure.environment import environment
    from unrollbench.plan import estimate
    from unrollbench.report import wording

    expected, suite = estimate(planned), planned.suite
    processes = len(planned.cases) * suite.repeats
    said = [
        f"{suite.name}: {suite.title}",
        f"{len(planned.cases)} cases in {processes} processes, about {wording.seconds(expected.seconds)}, "
        f"up to {wording.size(expected.memory_bytes)} of memory"
        + (f" and {wording.size(expected.disk_bytes)} of disk" if expected.disk_bytes else ""),
    ]
    facts = environment().facts
    free, on_gpu = facts["memory_available_bytes"], sum(case.device == "cuda" for case in planned.cases)
    if isinstance(free, int) and expected.memory_bytes > free:
        said.append(f"warning: only {wording.size(free)} of memory are free; the largest cases may fail")
    if on_gpu and facts["gpu"] is None:
        said.append(f"warning: {on_gpu} cases are for a GPU, and this machine shows none: {facts['unknown']['gpu']}")
    said += [f"left out by the budget: {line}" for line in planned.left_out]
    return "\n".join(said)


def _measured(arguments: argparse.Namespace, planned: Plan, store: Store, resumed: str | None) -> Run | None:
    """The finished run; None if it was interrupted, after saying how to go on."""
    from unrollbench import runner

    before = {found.id for found in store.runs()}
    try:
        return runner.execute(
            planned,
            store,
            resume=resumed,
            on_progress=_listener(arguments.quiet),
            on_wait=lambda: complain("waiting for another run on this machine to end: two at once would falsify both"),
        )
    except BaseException as error:
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # leaves the line of the bar
        begun = resumed or next((found.id for found in store.runs() if found.id not in before), None)
        if begun is not None:
            where = "" if arguments.db == DATABASE else f" --db {arguments.db}"
            complain(f"what is finished is kept; to go on: unrollbench run --resume {begun}{where}")
        if isinstance(error, KeyboardInterrupt):
            return None
        raise


def _listener(quiet: bool) -> Callable[[Progress], None]:
    """What tells of progress: a bar that is drawn again on a terminal, else a line for each finished case."""
    from unrollbench import progress as text

    if quiet:
        return lambda progress: None
    if not sys.stderr.isatty():

        def lines(progress: Progress) -> None:
            if progress.measurement is not None:
                say(text.finished(progress, progress.measurement), sys.stderr)

        return lines

    def drawn(progress: Progress) -> None:
        sys.stderr.write("\r\x1b[K")
        if progress.measurement is not None and progress.measurement.status not in ("ok", "skipped"):
            say(text.finished(progress, progress.measurement), sys.stderr)
        if progress.done < progress.total:
            sys.stderr.write(text.bar(progress, shutil.get_terminal_size().columns - 1))
        sys.stderr.flush()

    return drawn


def _reported(found: Run, out: Path | None) -> int:
    """The run's files are written and its summary is said."""
    from unrollbench import report as reporting
    from unrollbench.report import summary
    from unrollbench.report.files import check_writable

    folder = _folder(found, out)
    check_writable(folder)
    paths = reporting.write(found, folder)
    say(summary.text(found))
    say("\n" + "\n".join(str(path) for path in paths))
    return exit_code(found)


def _folder(found: Run, out: Path | None) -> Path:
    return out or REPORTS / f"{found.suite}-{found.id}"


def _stored(arguments: argparse.Namespace) -> Run:
    """The stored run that was asked for, by its id or the beginning of it; the newest if none was."""
    from unrollbench.store import Store

    with Store(arguments.db, create=False) as store:
        matching = [found.id for found in store.runs() if found.id.startswith(arguments.run or "")]
        if arguments.run is not None and len(matching) > 1 and arguments.run not in matching:
            raise RunError(f"{arguments.db}: several runs begin with {arguments.run!r}: {', '.join(matching)}")
        return store.run(matching[0] if arguments.run is not None and len(matching) == 1 else arguments.run)


def _chosen(arguments: argparse.Namespace) -> Case:
    """The one case that `show` was asked for."""
    from unrollbench import labels, suite
    from unrollbench import plan as planning

    what: list[str] = arguments.what
    if all("=" in word for word in what):
        return suite.parse_case(what, where="show")
    if len(what) > 1:
        raise SuiteError([f"{' '.join(what)}: expected axis=value pairs, or one key, or one suite with --filter"])
    known = what[0] in suite.names() or Path(what[0]).exists()
    cases = planning.make(suite.load(what[0]), filters=arguments.filter).cases if known else _by_key(arguments)
    if len(cases) > 1:
        listed = [f"  {case.key}  {labels.label(case)}" for case in cases]
        raise SuiteError([f"{len(cases)} cases fit: add --filter, or show one by its key:", *listed])
    return cases[0]


def _by_key(arguments: argparse.Namespace) -> tuple[Case, ...]:
    """The cases whose key begins so, of the database's runs and the installed suites."""
    from unrollbench import plan as planning
    from unrollbench import suite
    from unrollbench.store import Store

    key = arguments.what[0]
    cases = [case for name in suite.names() for case in planning.make(suite.load(name)).cases]
    if arguments.db.exists():
        with Store(arguments.db) as store:
            cases += [case for found in store.runs() for case in store.planned(found.id)]
    fitting = tuple(dict.fromkeys(case for case in cases if case.key.startswith(key)))
    if not fitting:
        raise SuiteError([f"{key}: no installed suite, no file, and no case of a suite or stored run has such a key"])
    return fitting
