"""What watching a step for instabilities costs: `--stability.every=N`.

    python benchmarks/watched_step.py [--repeat 20] [--every 20]

The plain and the watched step of `benchmarks/step.py` (D256 L6 V4096, 16 x 256 tokens)
in one process, in turn; the fastest repetition counts. Every N-th step is watched, so a
run costs (watched / plain - 1) / N more.
"""

import argparse

import jax
from step import JaxStep, make_forms
from timing import fastest_in_turn


def main() -> None:
    """Time both and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20, help="repetitions")
    parser.add_argument("--every", type=int, default=20, help="steps between readings")
    options = parser.parse_args()
    print(jax.devices()[0].device_kind)
    forms = make_forms(256)
    for name in ("dense, products kept", "lost, products kept"):
        steps = {
            "plain": JaxStep(forms[name]),
            "watched": JaxStep(forms[name], watch=True),
        }
        best = fastest_in_turn(steps, repeat=options.repeat)
        ratio = best["watched"] / best["plain"]
        cost = (ratio - 1) / options.every
        print(
            f"{name}: a watched step takes {ratio:.3f} of a plain one's time; "
            f"every {options.every} steps that is {100 * cost:+.2f} %"
        )


if __name__ == "__main__":
    main()
