"""What a whole run answers, in a sentence per question: static or dynamic, and what each setting of the loop does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from unrollbench.report import wording
from unrollbench.report.groups import Contrast, Group, baseline, contrast, questions
from unrollbench.stats import Ratio

SETTINGS = ("unroll", "parallel_iterations", "swap_memory", "matmul_precision", "allow_growth")
"""What can be set of a dynamic loop."""


def headlines(found: Sequence[Group]) -> tuple[str, ...]:
    """The answers over all networks, a sentence per backend and question, or why there is none."""
    sentences = (*_static(found), *_settings(found))
    nothing = "No network was measured both static and dynamic, so this run does not say which is better."
    return sentences or (nothing,)


def _static(found: Sequence[Group]) -> Iterator[str]:
    """Static against dynamic, for each backend that has both."""
    by_backend: dict[str, list[tuple[Contrast, Group]]] = {}
    for group in found:
        for c in questions(group):
            if c.variant.case.execution == "static":
                by_backend.setdefault(c.variant.case.backend, []).append((c, group))
    for backend, asked in by_backend.items():
        if len(asked) == 1:
            yield wording.answer(*asked[0]) + _gaps(backend, found)
        else:
            yield _sentence(f"{backend}, static against dynamic", [c for c, _ in asked]) + _gaps(backend, found)


def _settings(found: Sequence[Group]) -> Iterator[str]:
    """Each setting of a backend's loop against the plain loop, where nothing else differs."""
    effects: dict[str, list[Contrast]] = {}
    for group in found:
        for backend in dict.fromkeys(v.case.backend for v in group.variants):
            loops = [v for v in group.variants if (v.case.backend, v.case.execution) == (backend, "dynamic") and v.ok]
            plain = baseline(loops)
            for loop in loops:
                changed = [s for s in SETTINGS if plain and getattr(loop.case, s) != getattr(plain.case, s)]
                if plain is not None and len(changed) == 1:
                    value, usual = (_told(getattr(v.case, changed[0])) for v in (loop, plain))
                    title = f"{backend} dynamic, {changed[0]}={value} against {usual}"
                    effects.setdefault(title, []).append(contrast(loop, plain))
    for title, contrasts in effects.items():
        yield _sentence(title, contrasts)


def _sentence(title: str, contrasts: Sequence[Contrast]) -> str:
    """`TITLE in 6 networks: runs faster in 5, ...; builds take 1.5x to 8x the time; memory 1.1x to 4x.`"""
    runs = [c.run for c in contrasts if c.run is not None]
    builds = [c.build for c in contrasts if c.build is not None]
    memory = [c.memory for c in contrasts if c.memory is not None]
    networks = "1 network" if len(contrasts) == 1 else f"{len(contrasts)} networks"
    parts = [
        _counts(runs) or "run times are unknown",
        f"builds take {_range(builds)} the time" if builds else "build times are unknown",
        f"memory is {_range(memory)}" if memory else "memory is unknown",
    ]
    return f"{title} in {networks}: {'; '.join(parts)}."


def _counts(runs: Sequence[Ratio]) -> str:
    """`runs faster in 5 (1.05x to 2.1x), no difference in run time that this run can show in 1`."""
    faster = [r.inverse() for r in runs if r.shown and r.estimate < 1]
    slower = [r for r in runs if r.shown and r.estimate > 1]
    neither = len(runs) - len(faster) - len(slower)
    parts = [
        f"runs {word} in {len(some)} ({_range(some)})"
        for word, some in (("faster", faster), ("slower", slower))
        if some
    ]
    where = f"in {neither}" if faster or slower else "in any" if neither > 1 else ""
    parts += [f"no difference in run time that this run can show {where}".rstrip()] if neither else []
    return ", ".join(parts)


def _range(ratios: Sequence[Ratio]) -> str:
    """`1.05x to 2.10x`, or `2.10x` where both ends read the same."""
    ends = (min(r.estimate for r in ratios), max(r.estimate for r in ratios))
    return " to ".join(dict.fromkeys(wording.factor(end) for end in ends))


def _gaps(backend: str, found: Sequence[Group]) -> str:
    """What the answer leaves out: networks whose static variant has no figures, and why; they may be the worst."""
    statuses = Counter(
        v.measurements[0].status.replace("_", " ")
        for group in found
        for v in group.variants
        if v.case.backend == backend and v.case.execution == "static" and not v.ok
    )
    total, said = sum(statuses.values()), ", ".join(f"{number} {status}" for status, number in statuses.items())
    return f" Static has no figures in {total} more {'network' if total == 1 else 'networks'} ({said})." if said else ""


def _told(value: object) -> str:
    return str(value).lower()
