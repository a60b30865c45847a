"""One case in one fresh process, and what came of it, however that process ended.

The runner has a `forkserver`, which starts a `supervisor`, which forks a `process` for each `request`; that makes the
`measurement`, with a `checker` beside it.
"""
