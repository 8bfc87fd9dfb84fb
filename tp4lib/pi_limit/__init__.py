"""Pi-limits: infinitely wide networks, deep and nonlinear, that learn features (the sequel of the paper).

`layer` is one infinitely wide matrix as a list of rows, `compression` keeps the list short, `network` is the whole
perceptron, `finite` its networks of finite width; `reference` is one step of training in a dozen lines.
"""

from tp4lib.pi_limit.network import PiMLP

__all__ = ["PiMLP"]
