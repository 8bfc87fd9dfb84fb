"""Infinite-width feature learning you can run.

The library behind the notebooks that reproduce *Feature Learning in Infinite-Width Neural Networks*
(Yang & Hu, Tensor Programs IV, arXiv:2011.14522). Module names are the paper's ideas.
"""

__version__ = "0.1.0"
