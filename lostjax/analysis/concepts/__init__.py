"""Concepts: directions that explain a layer's activations, and how much each counts.

Fel, Picard, Bethune, Boissin, Vigouroux, Colin, Cadene & Serre, "CRAFT: Concept
Recursive Activation FacTorization for Explainability", 2022, arXiv:2211.10154. A model
is f = h o g, and g(x) are activations that are not negative. Every function takes
arrays, and h or g as callables.

    A ~ U W, U >= 0, W >= 0          `nmf`: concepts are the rows of W
    u(x) = argmin_(u >= 0) |g(x) - u W|^2          `nnls`: how much of each is in x
    S_i of h((u * m) W), m in [0, 1]^R              `concept_importance`
"""

from lostjax.analysis.concepts.factorisation import Factorisation, nmf
from lostjax.analysis.concepts.importance import (
    ConceptImportance,
    concept_attribution_map,
    concept_importance,
)
from lostjax.analysis.concepts.least_squares import nnls
from lostjax.analysis.concepts.recursion import (
    SubConcepts,
    extract_crops,
    refine_concept,
)
from lostjax.analysis.concepts.sobol import TotalSobol, total_sobol

__all__ = [
    "ConceptImportance",
    "Factorisation",
    "SubConcepts",
    "TotalSobol",
    "concept_attribution_map",
    "concept_importance",
    "extract_crops",
    "nmf",
    "nnls",
    "refine_concept",
    "total_sobol",
]
