"""Write attribution.json: attributions by captum, and by the authors of ReAGent.

    python tests/analysis/goldens/make_attribution.py draw
    python tests/analysis/goldens/make_attribution.py compute DIRECTORY

The first command runs with lostjax, and records the random draws of `reagent`. The
second runs where torch, transformers and captum are installed (none is a dependency);
DIRECTORY holds https://github.com/casszhao/ReAGent at commit 78097738 (MIT licence),
which is given the recorded draws. The model is tests/nn/goldens/llama.npz.
"""

import json
import pathlib
import sys
from types import SimpleNamespace

import numpy as np

HERE = pathlib.Path(__file__).parent
PATH = HERE / "attribution.json"
WEIGHTS = HERE.parents[1] / "nn" / "goldens" / "llama.npz"
T, TARGET, BASELINE, POINTS = 12, 42, 0, 32
PROBES, MOST, RATIO, TOP_K = 3, 6, 0.3, 3
IMPORTANCE = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1]
"""Zeros and ones: the masks of soft sufficiency are not random then."""


def draw() -> None:
    """Record what `reagent` draws, and the rows that it asks the model about."""
    import jax
    import jax.numpy as jnp

    sys.path.insert(0, str(HERE.parents[1]))
    from analysis.test_attribution_goldens import run_reagent  # the test's own call

    rows: list[list[list[int]]] = []
    with jax.disable_jit():
        run_reagent(lambda tokens_BT: rows.append(np.asarray(tokens_BT).tolist()))
    start_key, _ = jax.random.split(jax.random.key(0))
    start_PT = jax.random.uniform(start_key, (PROBES, T))
    values = {
        "start": np.asarray(start_PT, np.float64).tolist(),
        "tried": rows[1::2],
        "tested": rows[2::2],
        "prompt": jnp.asarray(rows[0][0]).tolist(),
    }
    PATH.write_text(json.dumps({"draws": values}) + "\n")


def compute(authors: pathlib.Path) -> None:
    """Compute the numbers."""
    import captum.attr
    import torch
    import transformers

    model = load_model(torch, transformers)
    values = json.loads(PATH.read_text())
    draws = values["draws"]
    tokens = torch.tensor([draws["prompt"]])
    x = model.model.embed_tokens(tokens).detach()

    def log_prob(embedded):
        logits = model(inputs_embeds=embedded).logits[:, -1]
        return torch.log_softmax(logits, -1)[:, TARGET]

    def prob(ids):
        return torch.softmax(model(ids).logits[:, -1], -1)[:, TARGET]

    gradient = captum.attr.Saliency(log_prob).attribute(x.clone(), abs=False)
    product = captum.attr.InputXGradient(log_prob).attribute(x.clone())
    path = captum.attr.IntegratedGradients(log_prob).attribute(
        x.clone(), n_steps=POINTS, method="gausslegendre"
    )
    ablation = captum.attr.FeatureAblation(prob).attribute(tokens, baselines=BASELINE)
    with torch.no_grad():
        maps = model(tokens, output_attentions=True).attentions
    weights_LHTS = np.stack([each[0].numpy() for each in maps]).astype(np.float64)
    values["captum"] = {
        "gradient_norm": gradient[0].norm(dim=-1).tolist(),
        "gradient_times_input": product[0].sum(-1).tolist(),
        "integrated_gradients": path[0].sum(-1).tolist(),
        "occlusion": ablation[0].tolist(),
    }
    values["transformers"] = {
        "attention": weights_LHTS.mean((0, 1))[-1].tolist(),
        "rollout": roll_out(weights_LHTS)[-1].tolist(),
    }
    values["authors"] = run_authors(torch, transformers, authors, model, draws, x)
    PATH.write_text(json.dumps(values) + "\n")
    print(PATH, PATH.stat().st_size)


def load_model(torch, transformers):
    """Build the LLaMA of `make_llama.py` with its weights."""
    sys.path.insert(0, str(WEIGHTS.parent))
    from make_llama import CONFIG

    config = transformers.LlamaConfig(**CONFIG, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).eval()
    arrays = np.load(WEIGHTS)
    model.load_state_dict(
        {
            name: torch.tensor(arrays[name])
            for name in arrays.files
            if name not in ("tokens", "logits")
        }
    )
    return model


def roll_out(weights_LHTS: np.ndarray) -> np.ndarray:
    """Multiply whole matrices, as Abnar and Zuidema write it."""
    total = np.eye(weights_LHTS.shape[-1])
    for layer in weights_LHTS.mean(1):
        mixed = layer + np.eye(len(layer))
        total = mixed / mixed.sum(-1, keepdims=True) @ total
    return total


def run_authors(torch, transformers, authors, model, draws, x):
    """Run the authors' classes, with recorded draws in the place of random ones."""
    # A name of older versions, which they import for their annotations.
    package = sys.modules["transformers"]  # which may have replaced itself
    package.AutoModelWithLMHead = transformers.AutoModelForCausalLM
    sys.path.insert(0, str(authors / "src" / "rationalization"))
    sys.path.insert(0, str(authors / "src"))
    from evaluation.evaluator.soft_comprehensiveness import (
        SoftComprehensivenessEvaluator,
    )
    from evaluation.evaluator.soft_sufficiency import SoftSufficiencyEvaluator
    from rationalizer.importance_score_evaluator.delta_prob import (
        DeltaProbImportanceScoreEvaluator,
    )
    from rationalizer.stopping_condition_evaluator.top_k import (
        TopKStoppingConditionEvaluator,
    )

    prompt = torch.tensor([draws["prompt"]])
    names = SimpleNamespace(decode=str)
    scores, steps = [], []
    for probe, start in enumerate(draws["start"]):
        tried = iter([row[probe] for row in draws["tried"]])
        tested = iter([row[probe] for row in draws["tested"]])

        def sample(ids, tried=tried):
            row = torch.tensor([next(tried)])
            return row, row != ids

        stop = TopKStoppingConditionEvaluator(
            model,
            SimpleNamespace(sample=lambda ids, rows=tested: torch.tensor([next(rows)])),
            TOP_K,
            top_n_ratio=RATIO,
        )
        evaluator = DeltaProbImportanceScoreEvaluator(
            model, names, SimpleNamespace(sample=sample), stop, MOST
        )
        rand, torch.rand = (
            torch.rand,
            lambda *_, start=start, **__: torch.tensor([start]),
        )
        with torch.no_grad():
            found = evaluator.evaluate(prompt, torch.tensor([TARGET]))
        torch.rand = rand
        scores.append(found[0].tolist())
        steps.append([evaluator.num_steps, bool(evaluator.stop_mask[0])])
    importance = torch.tensor([IMPORTANCE], dtype=torch.float32)
    with torch.no_grad():
        prob = torch.softmax(model(inputs_embeds=x)["logits"][:, -1], -1)
        kept = SoftSufficiencyEvaluator(model).evaluate(
            prompt, None, importance, x, prob
        )
        changed = SoftComprehensivenessEvaluator(model).evaluate(
            prompt, None, importance, x, prob
        )
        nothing = SoftSufficiencyEvaluator(model).evaluate(
            prompt, None, 0 * importance, x, prob
        )
    return {
        "scores": scores,
        "steps": steps,
        "soft_sufficiency": float(kept),
        "soft_comprehensiveness": float(changed),
        "sufficiency_of_nothing": float(nothing),
    }


if __name__ == "__main__":
    if sys.argv[1] == "draw":
        draw()
    else:
        compute(pathlib.Path(sys.argv[2]))
