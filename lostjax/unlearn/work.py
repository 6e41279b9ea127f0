"""The whole of unlearning: read, measure, forget, measure again, write.

Everything that can be refused is refused before the model is read.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.data import EvalPlan
from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.nn import Transformer, sample_tokens
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
from lostjax.unlearn.examples import (
    Encoded,
    Example,
    count_positions,
    encode_answers,
    read_examples,
    refuse_common,
)
from lostjax.unlearn.flags import Flags, check_flags
from lostjax.unlearn.forgetting import (
    Check,
    Forgetting,
    Plan,
    Rows,
    hold_work,
    remove_work,
)
from lostjax.unlearn.measure import Measures, Meter, Sets, choose_batches, cut_others
from lostjax.unlearn.methods import DIVERGENCES, METHODS, Settings
from lostjax.unlearn.page import (
    Sample,
    Unlearning,
    describe,
    list_values,
    render_unlearning,
)
from lostjax.unlearn.relearning import Relearning, relearn, split_tenth
from lostjax.view.numbers import format_count

_NEAR = 5  # every fifth retained example is a neighbour
_SAMPLE_TOKENS = 24


class Examples(NamedTuple):
    """What the files hold."""

    forget: list[Example]
    retain: list[Example] | None
    near: list[Example] | None


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
    flags = _complete(flags, run)
    config = _settle(run, flags)
    out = _choose_out(run, flags)
    written = check_place(run, str(out))
    examples = _read_all(flags, run)
    other = None if flags.against is None else _open_other(flags.against, run)
    provide_devices(config)
    keep_programs()
    model = _build(run, config)
    sets, rows = _encode(examples, run, model, config, flags)
    with hold_work(out, _list_settings(flags, run)) as folder:
        result, params = _forget(
            model, folder, flags=flags, run=run, examples=examples, sets=sets, rows=rows
        )
        if other is not None:
            result = _compare(result, other, config, flags=flags, sets=sets)
        _write(out, folder, run, (params, result), config=written, command=command)
        remove_work(folder)
    print(describe(result))
    print(f"run      {out}\npage     {out / 'unlearn.html'}")


def _complete(flags: Flags, run: Run) -> Flags:
    """Replace defaults that depend on the run or on other flags."""
    tenth = run.config.optim.learning_rate / 10
    return dataclasses.replace(
        flags,
        learning_rate=flags.learning_rate or tenth,
        relearn_rate=flags.relearn_rate or tenth,
        check_every=flags.check_every or max(1, flags.steps // 10),
    )


def _settle(run: Run, flags: Flags) -> TrainConfig:
    """Return the run's configuration for the mesh and the batch of unlearning."""
    mesh = run.config.mesh if flags.mesh is None else flags.mesh
    return dataclasses.replace(
        run.config, mesh=mesh, batch_size=flags.batch_size, accumulate=1
    )


def _choose_out(run: Run, flags: Flags) -> Path:
    if flags.out is not None:
        return read_path(flags.out, flag="--out")
    place = run.directory.absolute()
    return place.with_name(f"{place.name}-unlearned")


def _read_all(flags: Flags, run: Run) -> Examples:
    """Read the files; every fifth retained example is a neighbour if none is named."""
    read = partial(
        read_examples,
        tokenizer=run.tokenizer,
        seq_len=run.config.data.seq_len,
        template=flags.template,
    )
    assert flags.forget is not None
    forget = read(flags.forget, flag="--forget")
    retain = near = None
    if flags.retain is not None:
        retain = read(flags.retain, flag="--retain")
        refuse_common(forget, retain)
    if flags.neighbours is not None:
        near = read(flags.neighbours, flag="--neighbours")
        refuse_common(forget, near)
    elif retain is not None and len(retain) >= _NEAR:
        near = retain[::_NEAR]
        retain = [each for i, each in enumerate(retain) if i % _NEAR]
    return Examples(forget, retain, near)


def _open_other(against: str, run: Run) -> Run:
    """Open the run that was trained without the forgotten examples."""
    other = load(against)
    if other.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise ConfigError(
            f"--against={against}: has another tokenizer ({other.tokenizer.vocab_size} "
            f"tokens, {run.tokenizer.vocab_size} in {run.directory})"
        )
    other.step  # noqa: B018  raises if there is no checkpoint
    return other


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
    prompts = _choose_prompts(examples)
    said = _continue_all(model, model.variables, prompts, run)
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
        facts=_list_facts(flags),
        n_forget=len(examples.forget),
        history=ended.history,
        is_stopped=ended.is_stopped,
        before=before,
        after=after,
        retrained=None,
        relearning=_relearn(model, variables, flags=flags, sets=sets),
        retrained_relearning=None,
        samples=_list_samples(
            prompts, said, _continue_all(model, variables, prompts, run), run
        ),
        notes=_list_notes(flags, examples, before),
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


def _choose_prompts(examples: Examples) -> list[tuple[str, Example]]:
    """Choose what the page shows: three forgotten examples and two neighbours."""
    chosen = [("forgotten", each) for each in examples.forget[:3]]
    return chosen + [("neighbour", each) for each in (examples.near or [])[:2]]


def _continue_all(
    model: Model,
    variables: Variables,
    prompts: Sequence[tuple[str, Example]],
    run: Run,
) -> list[str]:
    """Continue prompts by the likeliest tokens, up to the end of the text."""
    eos, texts = run.tokenizer.eos_id, []
    for _, each in prompts:
        ids = jnp.asarray([[eos, *each.prompt]], jnp.int32)
        drawn_BT = sample_tokens(
            model.parts.model,
            variables,
            prompt_BT=ids,
            n_tokens=_SAMPLE_TOKENS,
            key=jax.random.key(0),
            temperature=0.0,
        )
        tokens = [int(token) for token in np.asarray(drawn_BT)[0, ids.shape[1] :]]
        tokens = tokens[: tokens.index(eos)] if eos in tokens else tokens
        texts.append(run.tokenizer.decode(tokens))
    return texts


def _list_samples(
    prompts: Sequence[tuple[str, Example]],
    before: Sequence[str],
    after: Sequence[str],
    run: Run,
) -> list[Sample]:
    decode = run.tokenizer.decode
    return [
        Sample(
            kind,
            decode(list(each.prompt)),
            decode(list(each.answer[:_SAMPLE_TOKENS])),
            said,
            says,
        )
        for (kind, each), said, says in zip(prompts, before, after, strict=True)
    ]


def _list_facts(flags: Flags) -> list[tuple[str, str]]:
    """List the flags that decide the numbers, as they are read."""
    names = [field.name for field in dataclasses.fields(flags)]
    hidden = {"run", "out", "step"}
    values = {name: getattr(flags, name) for name in names if name not in hidden}
    return [
        (name.replace("_", "-"), str(value))
        for name, value in values.items()
        if value is not None
    ]


def _list_notes(flags: Flags, examples: Examples, before: Measures) -> list[str]:
    notes = [
        "The membership score tells the forgotten answers from pieces of held-out text "
        "of the same lengths. If these differ in kind, part of the score is that: "
        "compare it with the score of a model that never saw the answers.",
    ]
    if examples.near is not None and flags.neighbours is None:
        notes.append("Neighbours are every fifth of the retained examples, held back.")
    if before.probability < 0.1:
        notes.append(
            "The model hardly knew the answers before, so there was little to forget."
        )
    return notes


def _list_settings(flags: Flags, run: Run) -> dict[str, object]:
    """List what unfinished work must agree in to be continued."""
    values: dict[str, object] = dataclasses.asdict(flags)
    for name in ("out", "against", "relearn_steps", "relearn_rate", "tokens"):
        values.pop(name)
    values.pop("mesh")  # any mesh may continue
    values |= {"run": str(run.directory.absolute()), "step": run.step}
    for name in ("forget", "retain", "neighbours"):
        path = getattr(flags, name)
        if path is not None:
            content = read_path(path, flag=f"--{name}").read_bytes()
            values[name] = hashlib.sha256(content).hexdigest()
    return values


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
