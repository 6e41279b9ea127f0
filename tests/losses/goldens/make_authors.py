"""Write authors.json: values of the code that two papers' authors published.

Run where torch is installed (it is no dependency), with checkouts of both:
    git clone https://github.com/ShannonAI/dice_loss_for_NLP            # d437bb99
    git clone https://github.com/maumruiz/FSL-Loss                      # 249405f5
    python tests/losses/goldens/make_authors.py dice_loss_for_NLP FSL-Loss
"""

import importlib.util
import json
import pathlib
import sys

import torch

DICE = [
    {"smooth": 1e-4, "squared": False, "alpha": 0.0},
    {"smooth": 1.0, "squared": False, "alpha": 0.0},
    {"smooth": 1.0, "squared": True, "alpha": 0.0},
    {"smooth": 1.0, "squared": False, "alpha": 1.0},
    {"smooth": 1.0, "squared": True, "alpha": 0.01},
]
ICNN = [{"k": 4, "n_candidates": None}, {"k": 3, "n_candidates": 12}]


def load(path, name):
    """Import one file of a checkout, which may import others of it."""
    sys.path.insert(0, str(path))
    spec = importlib.util.spec_from_file_location(name, path / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score_dice(code, logits, labels, classes):
    """Binary losses of a set, and squared losses of classes for each example."""
    cases = []
    for case in DICE:
        given = {
            "smooth": case["smooth"],
            "square_denominator": case["squared"],
            "alpha": case["alpha"],
            "reduction": "none",
        }
        loss = code.DiceLoss(**given)
        cases.append(case | {"set": loss._binary_class(logits[:, 0], labels).item()})
        if case["squared"]:  # unsquared, it sums denominators over the batch
            cases[-1]["classes"] = loss(logits, classes).tolist()
    return cases


def main() -> None:
    dice, few = map(pathlib.Path, sys.argv[1:])
    code = load(dice / "loss", "dice_loss")
    torch.manual_seed(0)
    logits = 2 * torch.randn(12, 3)
    classes = torch.randint(0, 3, (12,))
    labels = (classes == 0).long()
    sys.path.insert(0, str(few))
    icnn = load(few / "algorithms", "icnn_loss")
    x = torch.randn(20, 3)
    groups = torch.arange(20) % 4
    x[:, 0] += 1.5 * groups
    protos = torch.stack([x[groups == group].mean(0) for group in range(4)])
    found = {
        "logits": logits.tolist(),
        "classes": classes.tolist(),
        "dice": score_dice(code, logits, labels, classes),
        "x": x.tolist(),
        "groups": groups.tolist(),
        "icnn": [
            case
            | {
                "score": icnn.modified_score(
                    x, groups, k=case["k"], ipc=case["n_candidates"]
                ).item()
            }
            for case in ICNN
        ],
        "proto_triplet": icnn.proto_triplet_loss(
            x, groups, protos, torch.arange(4), way=4, margin=0.5
        ).item(),
    }
    path = pathlib.Path(__file__).with_name("authors.json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
