"""Measurements of what exists: parameters, activations, curves, text."""

from lostjax.analysis.text_baselines import TextBaselines, predict_ngram, score_text

__all__ = ["TextBaselines", "predict_ngram", "score_text"]
