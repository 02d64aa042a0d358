"""agf-fx: compile PyTorch image classifiers into explanation graphs.

    explainer = agf_fx.compile(model)
    maps = explainer(images)              # (N, H, W), for each image's top class
    maps = explainer(images, target)      # int, (N,) or (N, K)

Names are loaded when they are first used, so that importing this package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import agf_fx.methods as methods
    import agf_fx.ssl as ssl
    import agf_fx.store as cache
    from agf_fx.frontend.capture import capture
    from agf_fx.imaging.read import read_image
    from agf_fx.inspect.conservation import ConservationReport
    from agf_fx.inspect.diagnosis.report import Diagnosis
    from agf_fx.ir.graph import CanonicalGraph, ExplanationGraph
    from agf_fx.methods.cam import GradCAMOptions
    from agf_fx.methods.lrp import LRPAlphaBetaOptions, LRPOptions
    from agf_fx.methods.meta import MetaOptions, meta
    from agf_fx.methods.path import IntegratedGradientsOptions
    from agf_fx.methods.patterns import Patterns
    from agf_fx.models import LoadedModel, load_model
    from agf_fx.options import AGFOptions, CompileOptions
    from agf_fx.rules.register import register_rule
    from agf_fx.runtime.comparison import Comparison, compare
    from agf_fx.runtime.explainer import Explainer, compile
    from agf_fx.runtime.explanation import Explanation
    from agf_fx.runtime.exported import ExportedExplainer, load
    from agf_fx.runtime.fitting import fit_patterns

_CHECKOUT = Path(__file__).parent.parent
if not (_CHECKOUT / "agf_fx" / "passes").exists() and (_CHECKOUT / "passes" / "batch_norms.py").exists():
    __path__.append(str(_CHECKOUT))  # a checkout keeps `agf_fx.passes` beside this folder, installed or not

_ROOMS = {"cache": "agf_fx.store", "methods": "agf_fx.methods", "ssl": "agf_fx.ssl"}
_HOMES = {
    "AGFOptions": "agf_fx.options",
    "CanonicalGraph": "agf_fx.ir.graph",
    "Comparison": "agf_fx.runtime.comparison",
    "CompileOptions": "agf_fx.options",
    "ConservationReport": "agf_fx.inspect.conservation",
    "Diagnosis": "agf_fx.inspect.diagnosis.report",
    "Explainer": "agf_fx.runtime.explainer",
    "Explanation": "agf_fx.runtime.explanation",
    "ExplanationGraph": "agf_fx.ir.graph",
    "ExportedExplainer": "agf_fx.runtime.exported",
    "GradCAMOptions": "agf_fx.methods.cam",
    "IntegratedGradientsOptions": "agf_fx.methods.path",
    "LRPAlphaBetaOptions": "agf_fx.methods.lrp",
    "LRPOptions": "agf_fx.methods.lrp",
    "LoadedModel": "agf_fx.models",
    "MetaOptions": "agf_fx.methods.meta",
    "Patterns": "agf_fx.methods.patterns",
    "capture": "agf_fx.frontend.capture",
    "compare": "agf_fx.runtime.comparison",
    "compile": "agf_fx.runtime.explainer",
    "fit_patterns": "agf_fx.runtime.fitting",
    "load": "agf_fx.runtime.exported",
    "load_model": "agf_fx.models",
    "meta": "agf_fx.methods.meta",
    "read_image": "agf_fx.imaging.read",
    "register_rule": "agf_fx.rules.register",
}

__all__ = [
    "AGFOptions",
    "CanonicalGraph",
    "Comparison",
    "CompileOptions",
    "ConservationReport",
    "Diagnosis",
    "Explainer",
    "Explanation",
    "ExplanationGraph",
    "ExportedExplainer",
    "GradCAMOptions",
    "IntegratedGradientsOptions",
    "LRPAlphaBetaOptions",
    "LRPOptions",
    "LoadedModel",
    "MetaOptions",
    "Patterns",
    "__version__",
    "cache",
    "capture",
    "compare",
    "compile",
    "fit_patterns",
    "load",
    "load_model",
    "meta",
    "methods",
    "read_image",
    "register_rule",
    "ssl",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from agf_fx.version import own_version

        return own_version()
    if name in _ROOMS:
        return import_module(_ROOMS[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'agf_fx' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
