"""Attacks on files: damaged between a kill and the next start, or become links."""

import shutil

from campaign.attacks import kill
from campaign.world import Violation


def damage_checkpoint(world):
    """A file of a checkpoint, or a directory of it."""
    return _damage_after(world, lambda: world.directory.glob("checkpoints/**/*"))


def damage_run_file(world):
    """A file of the run besides its checkpoints."""
    return _damage_after(
        world,
        lambda: (
            path
            for path in world.directory.rglob("*")
            if path.is_file() and "checkpoints" not in path.parts
        ),
    )


def damage_cache(world):
    """A file of tokens, of a tokenizer or of a baseline."""
    world.cache = world.place / "cache"
    shutil.copytree(world.shared / "cache", world.cache)
    return _damage_after(
        world, lambda: (path for path in world.cache.rglob("*") if path.is_file())
    )


def _damage_after(world, files):
    def damage():
        there = sorted(files())
        if there:
            _damage(world, world.rng.choice(there))

    group = kill(world)
    world.after = damage
    return group


def _damage(world, path):
    """Flip a bit, cut, zero or delete a file; delete a directory."""
    name = path.relative_to(world.place)
    size = 0 if path.is_dir() else path.stat().st_size
    how = world.rng.choice(["flip", "cut", "zero", "delete"]) if size else "delete"
    world.detail = f"{how} {name}"
    if path.is_dir():
        shutil.rmtree(path)
    elif how == "delete":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        at = world.rng.randrange(size)
        if how == "flip":
            data[at] ^= 1 << world.rng.randrange(8)
        elif how == "cut":
            del data[at:]
        else:
            data[at:] = bytes(size - at)
        path.write_bytes(data)


def link(world):
    """Put a symbolic link to a place elsewhere where the run has a file."""
    group = kill(world)
    outside = world.place / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    directories = ("checkpoints", "tensorboard")
    files = ("lock", "metrics.jsonl", "evaluations.jsonl", "report.html", "config.json")
    name = world.rng.choice([*directories, *files, "data.json", "tokenizer.json"])

    def replace():
        path = world.directory / name
        world.detail = f"{name} is a link"
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside if name in directories else outside / "file")

    def look():
        there = {path.name for path in outside.rglob("*")}
        if there != {"file"} or (outside / "file").read_text() != "mine":
            raise Violation("outside", f"{name}: {sorted(there)}")

    world.after, world.check = replace, look
    return group
