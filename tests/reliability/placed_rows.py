"""Place every batch of a run and print what lies on this process's devices."""

import json
import sys

import jax
import numpy as np
import xxhash

from lostjax.train.__main__ import parse_command
from lostjax.train.build.job import prepare_job
from lostjax.train.devices.sharding import place_batch

config = parse_command(sys.argv[1:]).config
run = prepare_job(config)
found = {}
for step in range(config.steps):
    leaves = jax.tree.leaves(place_batch(run.data.train, step, mesh=run.mesh))
    for shards in zip(*(leaf.addressable_shards for leaf in leaves), strict=True):
        start, stop, _ = shards[0].index[0].indices(config.batch_size)
        parts = [np.asarray(shard.data) for shard in shards]
        for number in range(stop - start):
            row = b"".join(part[number].tobytes() for part in parts)
            found[f"{step} {start + number}"] = xxhash.xxh3_128_hexdigest(row)
print(json.dumps(found))
