"""Massive editing of language models by meta-learning (MALMEN), reproduced.

The package holds the method of Tan, Zhang and Fu, *Massive Editing for Large Language Models via
Meta Learning* (ICLR 2024, arXiv:2311.04661), and the command line that the workflow calls. Start
with `malmen.normal_equation`, which is the paper's theorems as code.
"""

__version__ = "0.1.0"
