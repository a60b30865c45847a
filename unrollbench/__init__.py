"""unrollbench measures what unrolling a recurrent network costs and buys on this machine."""

__version__ = "0.1.0"
