"""What a diffusion model draws before and after it forgets a class.

python -c "from lostjax.repro.papers.salun_images.pictures import write_samples as write
write('docs/papers/unlearning.svg', claim='results/salun_images-small.json')"
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.disk.files import replace_file
from lostjax.repro.papers.salun_images import (
    ASCENT,
    DIFFERENCE,
    EXPERIMENT,
    RETRAINED,
    SALUN,
    build_methods,
)
from lostjax.repro.papers.salun_images.forgetting import (
    NOTHING,
    draw_classes,
    forget_class,
)
from lostjax.repro.papers.salun_images.worlds import CLASSES, draw_with
from lostjax.view.crops import CropRow, draw_crops

SHOWN = NOTHING, RETRAINED, ASCENT, DIFFERENCE, SALUN


def write_samples(path: str, *, claim: str, seed: int = 0) -> None:
    """Draw an image of each class by several methods into an SVG file.

    Args:
      path: the file.
      claim: the committed claim, whose rates are taken.
      seed: of the models.
    """
    rows = {row["method"]: row for row in json.loads(Path(claim).read_text())["rows"]}
    methods = build_methods(EXPERIMENT.scales["small"])
    _, forgotten = draw_classes(seed)
    labels = jnp.arange(CLASSES)
    drawn = []
    for name in SHOWN:
        config = methods[name]
        rate = rows[name]["learning_rate"]
        params = forget_class(config, rate, seed, forgotten)
        images_BM = draw_with(config.world)(params, jax.random.key(7), labels)
        size = round(images_BM.shape[-1] ** 0.5)
        images = (np.asarray(images_BM).reshape(-1, size, size) + 1) / 2
        drawn.append(CropRow(name, list(images), [None] * CLASSES))
    heads = ["forgotten" if each == forgotten else "" for each in range(CLASSES)]
    text = draw_crops(drawn, name="unlearning", heads=heads)
    replace_file(Path(path), text.encode())
