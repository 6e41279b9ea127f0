"""The whole of unlearning: read, measure, forget, measure again, write.

Everything that can be refused is refused before the model is read.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lostjax.data import EvalPlan
from lostjax.disk.files import replace_file
from lostjax.nn import Transformer
from lostjax.train.build.model import place_model
from lostjax.train.build.restored import read_variables
from lostjax.train.build.run import Run as Parts
from lostjax.train.build.run import build_run
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.compilation_cache import keep_programs
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.provide import provide_devices
from lostjax.train.interface.derived import check_place, write_derived
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.texts import plan_text, read_heldout_tokens
from lostjax.train.keep.directory import refusing_disk_errors
from lostjax.typing import PyTree, Variables
from lostjax.unlearn.examples import Encoded, Example, count_positions, encode_answers
from lostjax.unlearn.flags import Flags, check_flags
from lostjax.unlearn.forgetting import (
    Check,
    Forgetting,
    Plan,
    Rows,
)
from lostjax.unlearn.inputs import (
    Examples,
    choose_out,
    complete_flags,
    list_facts,
    list_notes,
    list_settings,
    open_other,
    read_all,
    settle_config,
)
from lostjax.unlearn.measure import Meter, Sets, choose_batches, cut_others
from lostjax.unlearn.methods import DIVERGENCES, METHODS, Settings
from lostjax.unlearn.page import (
    Unlearning,
    describe,
    list_values,
    render_unlearning,
)
from lostjax.unlearn.relearning import Relearning, relearn, split_tenth
from lostjax.unlearn.samples import choose_prompts, continue_all, list_samples
from lostjax.unlearn.unfinished import hold_work, remove_work
from lostjax.view.numbers import format_count


class Model(NamedTuple):
    """A model on the mesh, and what measures it."""

    parts: Parts
    bound: Transformer
    """Bound to the mesh."""
    variables: Variables
    meter: Meter


def unlearn(flags: Flags, *, command: str) -> None:
    """Make a run forget, and write the new run and its page.

    Raises:
      ConfigError, DataError: if a flag is wrong, or the run, its text or an example
        cannot be used.
    """
    check_flags(flags)
    run = load(flags.run, step=flags.step)
    flags = complete_flags(flags, run)
    config = settle_config(run, flags)
    out = choose_out(run, flags)
    written = check_place(run, str(out))
    examples = read_all(flags, run)
    other = None if flags.against is None else open_other(flags.against, run)
    provide_devices(config)
    keep_programs()
    model = _build(run, config)
    sets, rows = _encode(examples, run, model, config, flags)
    with hold_work(out, list_settings(flags, run)) as folder:
        result, params = _forget(
            model, folder, flags=flags, run=run, examples=examples, sets=sets, rows=rows
        )
        if other is not None:
            result = _compare(result, other, config, flags=flags, sets=sets)
        _write(out, folder, run, (params, result), config=written, command=command)
        remove_work(folder)
    print(describe(result))
    print(f"run      {out}\npage     {out / 'unlearn.html'}")


def _build(run: Run, config: TrainConfig) -> Model:
    """Read a run's model onto the mesh."""
    mesh = make_mesh(config.mesh)
    parts = build_run(config, mesh=mesh, vocab_size=run.tokenizer.vocab_size)
    variables = read_variables(
        run.directory, parts, step=run.step, average=False, dtype="float32"
    )
    bound = place_model(parts.model, config=config.model, mesh=mesh)
    meter = Meter(bound, mesh=mesh, batch_size=config.batch_size)
    return Model(parts, bound, variables, meter)


def _encode(
    examples: Examples, run: Run, model: Model, config: TrainConfig, flags: Flags
) -> tuple[Sets, Rows]:
    """Make arrays of all examples, of one row length so that one program reads them."""
    eos = run.tokenizer.eos_id
    every = [each for part in examples if part is not None for each in part]
    length = min(count_positions(every), config.data.seq_len)

    def encode(part: Sequence[Example] | None) -> Encoded | None:
        if part is None:
            return None
        return encode_answers(part, length=length, eos=eos)

    plan: EvalPlan = plan_text(None, config, tokenizer=run.tokenizer)
    heldout_N = read_heldout_tokens(config, tokenizer=run.tokenizer)
    answers = encode_answers(examples.forget, length=length, eos=eos)
    templates = encode_answers(
        examples.forget, length=length, eos=eos, answer_of=lambda each: each.template
    )
    retain = encode(examples.retain)
    sets = Sets(
        answers,
        cut_others(heldout_N, examples.forget, eos=eos, length=length),
        encode(examples.near),
        retain,
        plan,
        choose_batches(plan, tokens=flags.tokens),
    )
    read = model.meter.read
    rows = Rows(
        answers,
        templates,
        read(model.variables, answers).log_probability_E,
        read(model.variables, templates).log_probability_E,
        retain,
    )
    return sets, rows


def _forget(
    model: Model,
    folder: Path,
    *,
    flags: Flags,
    run: Run,
    examples: Examples,
    sets: Sets,
    rows: Rows,
) -> tuple[Unlearning, PyTree]:
    """Forget, with measures before and after; return them and the parameters."""
    title = f"{run.directory}, step {run.step}"
    print(
        f"{title}: {len(examples.forget)} examples to forget, "
        f"{format_count(int(rows.answers.weights_ET.sum()))} tokens; measuring",
        flush=True,
    )
    before = model.meter.measure(model.variables, sets)
    prompts = choose_prompts(examples)
    said = continue_all(model.parts.model, model.variables, prompts, run)
    forgetting = Forgetting(
        model.bound,
        model.variables,
        plan=_plan(flags),
        rows=rows,
        mesh=model.parts.mesh,
        vocab_size=run.tokenizer.vocab_size,
    )
    start = Check(0, before.probability, before.bits_per_byte)
    ended = forgetting.run(folder, check=partial(_check, model, sets), before=start)
    variables = {**model.variables, "params": ended.params}
    after = model.meter.measure(variables, sets)
    print("relearning a tenth of the forgotten", flush=True)
    result = Unlearning(
        title=title,
        method=METHODS[flags.method].title,
        facts=list_facts(flags),
        n_forget=len(examples.forget),
        history=ended.history,
        is_stopped=ended.is_stopped,
        before=before,
        after=after,
        retrained=None,
        relearning=_relearn(model, variables, flags=flags, sets=sets),
        retrained_relearning=None,
        samples=list_samples(
            prompts, said, continue_all(model.parts.model, variables, prompts, run), run
        ),
        notes=list_notes(flags, examples, before),
    )
    return result, ended.params


def _check(model: Model, sets: Sets, step: int, variables: Variables) -> Check:
    """Measure what decides whether forgetting goes on."""
    read = model.meter.read(variables, sets.forget)
    bits = model.meter.bits_per_byte(variables, sets)
    return Check(step, float(np.mean(read.probability_E)), bits)


def _plan(flags: Flags) -> Plan:
    assert flags.learning_rate is not None and flags.check_every is not None
    return Plan(
        method=METHODS[flags.method],
        settings=Settings(DIVERGENCES[flags.divergence], flags.beta),
        steps=flags.steps,
        check_every=flags.check_every,
        batch_size=flags.batch_size,
        learning_rate=flags.learning_rate,
        weight_decay=flags.weight_decay,
        retain_weight=flags.retain_weight,
        saliency=flags.saliency,
        max_utility_loss=flags.max_utility_loss,
        seed=flags.seed,
    )


def _compare(
    result: Unlearning, other: Run, config: TrainConfig, *, flags: Flags, sets: Sets
) -> Unlearning:
    """Measure a run that was trained without the forgotten examples."""
    print(f"measuring {other.directory}", flush=True)
    sized = dataclasses.replace(
        other.config, mesh=config.mesh, batch_size=config.batch_size, accumulate=1
    )
    model = _build(other, sized)
    return result._replace(
        retrained=model.meter.measure(model.variables, sets),
        retrained_relearning=_relearn(model, model.variables, flags=flags, sets=sets),
        notes=[*result.notes, f"Retrained: {other.directory}, step {other.step}."],
    )


def _relearn(
    model: Model, variables: Variables, *, flags: Flags, sets: Sets
) -> Relearning:
    assert flags.relearn_rate is not None
    taught, others = split_tenth(sets.forget, seed=flags.seed)
    return relearn(
        model.bound,
        variables,
        taught=taught,
        others=others,
        meter=model.meter,
        mesh=model.parts.mesh,
        learning_rate=flags.relearn_rate,
        n_steps=flags.relearn_steps,
        seed=flags.seed,
    )


def _put(params: PyTree, before: PyTree) -> PyTree:
    """Place parameters as those of another mesh are."""
    return jax.tree.map(
        lambda new, old: jax.device_put(np.asarray(new, old.dtype), old.sharding),
        params,
        before,
    )


def _write(
    out: Path,
    folder: Path,
    run: Run,
    made: tuple[PyTree, Unlearning],
    *,
    config: TrainConfig,
    command: str,
) -> None:
    """Write the new run and its page."""
    params, result = made
    text = json.dumps(list_values(result), indent=1, allow_nan=False) + "\n"
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)  # of a start that was killed here
    config = dataclasses.replace(config, run_dir=str(place))
    write_derived(run, partial(_put, params), config=config, command=command)
    with refusing_disk_errors(out):
        replace_file(place / "unlearn.json", text.encode())
        replace_file(place / "unlearn.html", render_unlearning(result).encode())
        # Renamed when it is whole: a kill leaves a whole run or none.
        out.parent.mkdir(parents=True, exist_ok=True)
        place.replace(out)
