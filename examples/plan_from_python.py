"""Plan runs from Python: what a step needs on hardware that need not be there."""

import dataclasses
import sys

import lostjax


def main(topology: str = "here") -> tuple[lostjax.plan.Plan, ...]:
    """Compare a dense model with LOST; prints a table.

    Args:
      topology: such as `v5e:4x4` or `h100:1`, if its compiler is installed.
    """
    target = lostjax.plan.find_target(topology)
    lost = lostjax.train.preset("smoke")
    dense = dataclasses.replace(
        lost, model=dataclasses.replace(lost.model, linear="dense")
    )
    plans = tuple(
        lostjax.plan.make_plan(config, target)._replace(name=name)
        for name, config in (("LOST", lost), ("dense", dense))
    )
    for name, *cells in lostjax.plan.compare_plans(plans).rows:
        print(f"{name:32}", *(f"{cell:>20}" for cell in cells))
    return plans


if __name__ == "__main__":
    main(*sys.argv[1:])
