"""The concept board of a class: crops with most of each concept, and where it is.

python -c "from lostjax.repro.papers.craft.board import write_board as write
write('docs/papers/concepts.svg', label=9)"
"""

from pathlib import Path

import numpy as np

from lostjax.analysis import concept_attribution_map
from lostjax.disk.files import replace_file
from lostjax.repro.papers.craft import rank_by_sobol
from lostjax.repro.problems.garment_concepts import (
    Reading,
    find_concepts,
    train_network,
)
from lostjax.typing import Array
from lostjax.view.crops import CropRow, draw_crops

CROPS, MAPS, CONCEPTS = 5, 3, 5


def write_board(
    path: str, *, label: int, seed: int = 0, reading: Reading | None = None
) -> None:
    """Draw the most important concepts of a class into an SVG file.

    Args:
      path: the file.
      label: the class.
      seed: of the network.
      reading: its configuration; default that of the committed claim.
    """
    reading = reading or Reading()
    network = train_network(reading, seed)
    found = find_concepts(reading, seed)[label]

    def logit(a_BM: Array) -> Array:
        return network.head(a_BM)[:, label]

    importance_R = np.asarray(rank_by_sobol(logit, found))
    rows = []
    for r in np.argsort(-importance_R)[:CONCEPTS]:
        crops = found.crops_NHWC[np.argsort(-np.asarray(found.strength_NR)[:, r])]
        most_B = np.argsort(-np.asarray(found.unseen_u_BR)[:, r])[:MAPS]
        images = [found.unseen_BHWC[row] for row in most_B]
        maps = [
            concept_attribution_map(
                lambda x: network.encode(x[None])[0], x, found.w_RM, concept=int(r)
            )
            for x in images
        ]
        rows.append(
            CropRow(
                f"importance {importance_R[r]:.2f}",
                [np.asarray(x)[..., 0] for x in (*crops[:CROPS], *images)],
                [*[None] * CROPS, *map(np.asarray, maps)],
            )
        )
    heads = ["crops", *[""] * (CROPS - 1), "unseen images", *[""] * (MAPS - 1)]
    text = draw_crops(rows, name="concepts", heads=heads)
    replace_file(Path(path), text.encode())
