"""Coordinate checks: how sizes grow with the width, measured beside the powers that a parametrization predicts.

`check` trains perceptrons in any `ABC`; `check_module` takes any module; `blame` names the single parameter that is
wrong. Source: Yang et al. 2022 (Tensor Programs V, arXiv 2203.03466), appendix D.
"""

from tp4lib.coordcheck.blaming import blame
from tp4lib.coordcheck.modules import ModuleCheck, check_module
from tp4lib.coordcheck.perceptrons import CoordCheck, Growth, check

__all__ = ["CoordCheck", "Growth", "ModuleCheck", "blame", "check", "check_module"]
