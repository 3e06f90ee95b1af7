"""`python -m qvit_deploy`: the same program as `qvit-deploy`."""

from qvit_deploy.cli import main

main()
