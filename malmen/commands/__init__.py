"""The subcommands: every public function is one, in files named as the rules that call them.

A command reads files, calls one module and writes files; the Snakefile only wires files together.
Heavy libraries are imported by the command that needs them, so that ``--help`` and the tables come
at once.
"""
