"""`python -m rhe_parties.cli`: the same as `rhe`."""

from rhe_parties.cli.main import main

main()
