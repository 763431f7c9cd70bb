"""`python -m hpo.cli`: the `hpo` command where no script is installed."""

from hpo.cli import main

main(prog_name="hpo")
