"""`python -m unrollbench` is the `unrollbench` command."""

from unrollbench.cli import entry

entry()
