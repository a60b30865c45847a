"""A backend and a cell for unrollbench that live in a package of their own."""
