"""A campaign of attacks on the command line of the trainer.

    python tests/reliability/campaign --draws=0:300 --out=FILE.jsonl

A draw is a pure function of its number: an attack of the table in `attacks`, a moment,
and what the attack needs. The attacked run is held to one rule: it ends with the bits
of a run that nothing happened to, or with one line that says why not and an exit code
other than 0. A traceback, a wrong number or a silent loss breaks the rule, and so does
a hang: a minute without a line and without the CPU, or a longer wait than the line says
that announces it.
"""
