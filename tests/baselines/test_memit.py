"""MEMIT against the released procedure: one fact, one prompt at a time, the whole model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from exact_gptj import exact_gptj
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import INNER, bits, plain_logits, plain_loss, tiny_lm
from torch import Tensor

import baselines.memit
import baselines.memit_values
from baselines.key_statistics import KeyStatistics, key_statistics
from baselines.memit import MEMIT, sample_contexts
from baselines.memit_values import optimise_values, question, subject_prompt
from benchmarks.released_memit import ReleasedMemit
from malmen.data.rows import FeverRow, ZsreRow
from malmen.editor import Remembering
from malmen.evaluation import evaluate
from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact, encode_rows
from malmen.lm.language_model import LanguageModel
from malmen.normal_equation import parameter_shift
from malmen.settings import MemitSettings
from malmen.support.errors import InputError

KINDS = ("gpt2", "gptj", "llama")
TOP = 1  # the last edited block of tiny models: one block is above it
SETTINGS = MemitSettings(
    v_steps=4, covariance_weight=2.0, contexts=3, context_length=2, fact_batch=3
)
CONTEXTS = ["", "The. ", "You ar. "]

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    with exact_gptj():
        yield


lm_of = cache(partial(tiny_lm, edited_blocks=(0, 1)))


def row(i: int, **changes: Any) -> ZsreRow:
    """Return a question; subjects, prompts and answers differ in length."""
    city = ("Oslo", "Rio de J", "Ur", "San José", "Bonn", "Lagos", "Ma")[i % 7] + "n" * (i // 7)
    src = (f"Where is {city}?", f"{city} is in", f"Which land is {city} of?")[i % 3]
    row = ZsreRow(city, src, (f"{city}:",), ("Peru", "France", "Chad")[i % 3], "a b", "c", None)
    return replace(row, **changes)


def facts_for(lm: LanguageModel, rows: Sequence[ZsreRow]) -> list[EncodedFact]:
    return encode_rows(lm, rows, seed=0)


def statistics_of(lm: LanguageModel, *, seed: int | None = 0) -> KeyStatistics:
    """Return random covariances, or the identity."""
    covariances = {}
    for number, (layer, (d, _)) in enumerate(lm.shapes.items()):
        covariances[layer] = torch.eye(d, dtype=torch.float64)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed + number)
            keys = torch.randn(2 * d, d, generator=generator, dtype=torch.float64)
            covariances[layer] = keys.T @ keys / len(keys)
    return KeyStatistics(covariances, {"tokens": 2 * INNER})


def editor_for(lm: LanguageModel, *, identity: bool = False, **changes: Any) -> MEMIT:
    statistics = statistics_of(lm, seed=None if identity else 0)
    return MEMIT(replace(SETTINGS, **changes), statistics, seed=0)


def values_of(lm: LanguageModel, rows: Sequence[ZsreRow], **changes: Any) -> Tensor:
    chosen = replace(SETTINGS, **changes)
    return optimise_values(lm, [question(row) for row in rows], CONTEXTS, chosen, block=TOP)


def distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Return the largest relative distance of a layer's shifts."""
    assert list(found) == list(wanted)
    return max(((found[k] - wanted[k]).norm() / wanted[k].norm()).item() for k in wanted)


# --- plain computations ---


def plain_subject(lm: LanguageModel, row: ZsreRow, prompt: str) -> int:
    """Return the position of the subject's last token: there, tokens end where words do."""
    assert row.subject is not None
    up_to = prompt[: prompt.index(row.subject) + len(row.subject)]
    return len(lm.tokenizer(up_to)["input_ids"]) - 1


def plain_state(lm: LanguageModel, example: Example, position: int, **run: Any) -> Tensor:
    """Return the state behind the last edited block, of one unpadded sequence."""
    seen = []
    block = lm.model.get_submodule(lm.entry.blocks)[TOP]
    handle = block.register_forward_hook(
        lambda module, args, output: seen.append(output[0] if type(output) is tuple else output)
    )
    plain_logits(lm, example, **run)
    handle.remove()
    return seen[0][0, position].detach()


def plain_changed_logits(
    lm: LanguageModel, example: Example, position: int, delta: Tensor
) -> Tensor:
    """Return logits of one sequence of which one state is changed behind the last edited block."""

    def hook(module: object, args: object, output: Any) -> Any:
        states = output[0] if type(output) is tuple else output
        mark = torch.zeros(states.shape[1], 1, dtype=states.dtype)
        mark[position] = 1
        changed = states + mark * delta
        return (changed, *output[1:]) if type(output) is tuple else changed

    handle = lm.model.get_submodule(lm.entry.blocks)[TOP].register_forward_hook(hook)
    logits = plain_logits(lm, example)
    handle.remove()
    return logits


def plain_states(
    lm: LanguageModel, rows: Sequence[ZsreRow], shifts: Mapping[str, Tensor]
) -> Tensor:
    states = [
        plain_state(lm, lm.encode(r.src, r.ans), plain_subject(lm, r, r.src), shifts=shifts)
        for r in rows
    ]
    return torch.stack(states, dim=1)


def released_memit(lm: LanguageModel, **changes: Any) -> ReleasedMemit:
    """Return MEMIT as released, on the modules of a tiny language model."""
    norm = {"model.layers": "model.norm", "transformer.h": "transformer.ln_f"}[lm.entry.blocks]
    return ReleasedMemit(
        lm.model,
        lm.tokenizer,
        list(lm.layers),
        replace(SETTINGS, **changes),
        blocks=lm.entry.blocks,
        norm=norm,
    )


# --- the subject ---


@kinds
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_subjects_last_token_is_found(kind: str, context: str) -> None:
    lm = lm_of(kind)
    for one in map(row, range(9)):
        prompt = subject_prompt(lm, question(one), context=context)
        assert prompt.subject == plain_subject(lm, one, context + one.src)
        assert prompt.example == lm.encode(context + one.src, one.ans)
        cut = prompt.up_to_subject()
        assert lm.tokenizer.decode(cut.ids).endswith(one.subject)
        assert cut.positions == (len(cut.ids) - 1,)


@pytest.mark.parametrize("letters", ["San José", "Łódź", "東京"])
def test_a_letter_of_several_tokens_counts_with_all_of_them(letters: str) -> None:
    lm = lm_of("gpt2")
    one = row(0, subject=letters, src=f"Where is {letters}?")
    assert subject_prompt(lm, question(one)).subject == plain_subject(lm, one, one.src)


def test_the_slot_of_the_source_is_edited_where_the_subject_stands_twice() -> None:
    lm = lm_of("gpt2")
    src = "Unlike Oslo of Mali, the capital of Oslo is"
    one = row(0, subject="Oslo", src=src, subject_at=src.rindex("Oslo"))
    cut = subject_prompt(lm, question(one)).up_to_subject()
    assert lm.tokenizer.decode(cut.ids) == src.removesuffix(" is")


@pytest.mark.parametrize("subject", ["奥尔文湖", "タワー", "서울"])
def test_a_subject_between_letters_is_found_in_scripts_without_spaces(subject: str) -> None:
    lm = lm_of("llama")
    cut = subject_prompt(lm, question(row(0, subject=subject, src=f"在{subject}位于哪？")))
    assert lm.tokenizer.decode(cut.up_to_subject().ids) == f"在{subject}"


def test_all_facts_are_checked_before_the_first_value_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = lm_of("gpt2")
    facts = facts_for(lm, [row(0), row(1), row(2, subject="Rome", where="rows.json:row 9")])
    monkeypatch.setattr("baselines.memit.optimise_values", lambda *_, **__: pytest.fail("found"))
    for facts_at_once in (1, 3):
        with pytest.raises(
            InputError, match=r"rows\.json:row 9: the subject 'Rome' does not occur"
        ):
            evaluate(
                {facts_at_once: editor_for(lm)},
                lm,
                facts,
                counts=[facts_at_once],
                sets=3 // facts_at_once,
                size=2,
                progress=False,
            )


def test_the_subject_is_a_word_not_a_part_of_one() -> None:
    lm = lm_of("llama")
    one = row(0, subject="Oman", src="Is Romania near Oman or not?")
    prompt = subject_prompt(lm, question(one))
    assert lm.tokenizer.decode(prompt.up_to_subject().ids) == "Is Romania near Oman"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": None}, "MEMIT needs the subject of 'Where is Oslo\\?': add the field"),
        ({"subject": "Bergen"}, "'Bergen' does not occur in 'Where is Oslo\\?': correct"),
        ({"subject": "Osl"}, "'Osl' does not occur"),
    ],
)
def test_a_prompt_that_does_not_name_its_subject_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    lm = lm_of("gpt2")
    with pytest.raises(InputError, match=message):
        editor_for(lm).edit(lm, facts_for(lm, [row(1), row(0, **changes)]))


@pytest.mark.parametrize(
    "given", [FeverRow("a", ("b",), "c", "SUPPORTS", "REFUTES", None, None), None]
)
def test_what_is_no_question_is_refused(given: FeverRow | None) -> None:
    lm = lm_of("gpt2")
    [fact] = facts_for(lm, [row(0)])
    with pytest.raises(InputError, match="MEMIT edits facts to be completed"):
        editor_for(lm).edit(lm, [replace(fact, row=given)])


# --- values ---


@kinds
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kl_factor": 3.0},
        {"v_weight_decay": 50.0},
        {"clamp_factor": 0.1, "v_learning_rate": 2.0},
        {"kl_factor": 3.0, "kl_at": "essence"},
        {"kl_factor": 3.0, "kl_direction": "before_after"},
        {"v_steps": 1},
    ],
)
def test_values_are_those_of_each_fact_alone_with_the_whole_model(
    kind: str, changes: dict[str, Any]
) -> None:
    lm = lm_of(kind)
    rows = [row(i) for i in range(4)]
    plain = [released_memit(lm, **changes).value(question(r), CONTEXTS) for r in rows]
    torch.testing.assert_close(
        values_of(lm, rows, **changes), torch.stack(plain), rtol=1e-10, atol=1e-10
    )


@given(
    kind=st.sampled_from(KINDS),
    numbers=st.lists(st.integers(0, 20), min_size=2, max_size=5, unique=True),
    enough=st.sampled_from([0.05, 4.0, 5.0]),
)
@settings(max_examples=10)
def test_batch_mates_change_no_value(kind: str, numbers: list[int], enough: float) -> None:
    """Facts whose loss is small enough stop at different steps; the others go on."""
    lm = lm_of(kind)
    rows = [row(i) for i in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines.memit_values, "ENOUGH", enough)
        together = values_of(lm, rows)
        alone = torch.cat([values_of(lm, [r]) for r in rows])
    assert (together - alone).abs().max() <= 1e-10 * alone.abs().max()


def test_a_fact_stops_when_its_loss_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("gpt2")
    rows = [row(i) for i in range(6)]
    unchanged = plain_states(lm, rows, {}).T
    one_step = values_of(lm, rows, v_steps=2)
    monkeypatch.setattr(baselines.memit_values, "ENOUGH", torch.inf)
    torch.testing.assert_close(values_of(lm, rows), unchanged, rtol=1e-12, atol=1e-12)
    losses = [
        torch.stack([plain_loss(plain_logits(lm, e), e) for e in examples]).mean()
        for examples in ([lm.encode(c + r.src, r.ans) for c in CONTEXTS] for r in rows)
    ]
    middle = torch.stack(losses).median()
    monkeypatch.setattr(baselines.memit_values, "ENOUGH", middle.item() + 1e-9)
    found = values_of(lm, rows, v_steps=2)
    expected = torch.where(torch.stack(losses)[:, None] <= middle, unchanged, one_step)
    assert not torch.equal(unchanged, one_step)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@kinds
def test_a_value_stays_near_the_state_it_replaces(kind: str) -> None:
    lm = lm_of(kind)
    rows = [row(i) for i in range(5)]
    before = plain_states(lm, rows, {}).T
    moved = (values_of(lm, rows, v_learning_rate=10.0) - before).norm(dim=1)
    torch.testing.assert_close(moved, SETTINGS.clamp_factor * before.norm(dim=1))


# --- shifts ---


@kinds
@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_shifts_are_those_of_the_released_computation(kind: str, contexts: int) -> None:
    lm = lm_of(kind)
    rows = [row(i) for i in range(5)]
    editor = editor_for(lm, contexts=contexts)
    found = editor.edit(lm, facts_for(lm, rows))
    behind = sample_contexts(lm, editor.settings, seed=editor.seed)
    assert len(behind) == contexts
    plain = released_memit(lm).shifts(
        [question(r) for r in rows], behind, statistics_of(lm).covariances
    )
    assert distance(found, plain) <= 1e-10


@given(
    kind=st.sampled_from(KINDS),
    numbers=st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True),
    lam=st.floats(-2, 3).map(lambda exponent: 10.0**exponent),
)
@settings(max_examples=6)
def test_with_the_identity_and_one_layer_it_is_the_normal_equation(
    kind: str, numbers: list[int], lam: float
) -> None:
    """λC becomes λI: the shift of its keys and residuals, as MALMEN solves for it."""
    lm = tiny_lm(kind, edited_blocks=(TOP,))
    rows = [row(i) for i in numbers]
    editor = editor_for(lm, identity=True, covariance_weight=lam)
    found = editor.edit(lm, facts_for(lm, rows))
    [layer] = lm.layers
    contexts = sample_contexts(lm, editor.settings, seed=editor.seed)
    plain = released_memit(lm)
    keys = torch.stack([plain._key(layer, question(r), contexts) for r in rows], dim=1)
    values = [plain.value(question(r), contexts) for r in rows]
    residuals = torch.stack(values, dim=1) - plain_states(lm, rows, {})
    lam_tensor = torch.tensor(lam, dtype=torch.float64)
    assert distance(found, {layer: parameter_shift(keys, residuals, lam_tensor)}) <= 1e-9


@kinds
def test_the_order_of_the_facts_does_not_matter(kind: str) -> None:
    lm = lm_of(kind)
    facts = facts_for(lm, [row(i) for i in range(7)])
    wanted = editor_for(lm).edit(lm, facts)
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]):
        assert distance(editor_for(lm).edit(lm, [facts[i] for i in order]), wanted) <= 1e-9


@kinds
@pytest.mark.parametrize("fact_batch", [1, 4, 100])
def test_the_size_of_batches_does_not_matter(kind: str, fact_batch: int) -> None:
    lm = lm_of(kind)
    facts = facts_for(lm, [row(i) for i in range(5)])
    wanted = editor_for(lm).edit(lm, facts)
    assert distance(editor_for(lm, fact_batch=fact_batch).edit(lm, facts), wanted) <= 1e-9


@kinds
def test_a_value_makes_the_answer_likelier(kind: str) -> None:
    lm = lm_of(kind)
    for one in map(row, range(3)):
        example, at = lm.encode(one.src, one.ans), plain_subject(lm, one, one.src)
        [value] = values_of(lm, [one], v_steps=12)
        delta = value - plain_state(lm, example, at)
        before = plain_loss(plain_logits(lm, example), example)
        assert plain_loss(plain_changed_logits(lm, example, at, delta), example) < before


@kinds
def test_an_edit_makes_the_answer_likelier(kind: str) -> None:
    """Not of every fact, as the weights are random, but of facts in the mean."""
    lm = lm_of(kind)
    texts = [row(i).src for i in range(5, 50)]
    statistics = key_statistics(lm, texts, total=len(texts), length=30, progress=False)
    editor = MEMIT(replace(SETTINGS, v_steps=12, covariance_weight=1.0), statistics, seed=0)
    gains = []
    for fact in facts_for(lm, [row(i) for i in range(5)]):
        shifts = editor.edit(lm, [fact])
        before, after = (
            plain_loss(plain_logits(lm, fact.edit, s), fact.edit) for s in ({}, shifts)
        )
        gains.append(before - after)
    assert torch.stack(gains).mean() > 0.2


@kinds
def test_a_larger_weight_of_the_covariance_changes_less(kind: str) -> None:
    lm = lm_of(kind)
    facts = facts_for(lm, [row(i) for i in range(3)])
    sizes = [
        sum(s.square().sum().item() for s in editor.edit(lm, facts).values())
        for editor in (editor_for(lm, covariance_weight=lam) for lam in (1e-3, 1.0, 1e3))
    ]
    assert all(less < more for more, less in pairwise(sizes))


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_left_as_they_are(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, edited_blocks=(0, 1), dtype=dtype)
    before = bits(lm.model)
    blocks = list(lm.model.get_submodule(lm.entry.blocks))
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    shifts = editor_for(lm).edit(lm, facts_for(lm, [row(i) for i in range(4)]))
    assert bits(lm.model) == before
    assert list(lm.model.get_submodule(lm.entry.blocks)) == blocks
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    for layer, shift in shifts.items():
        d, value_size = lm.shapes[layer]
        assert shift.shape == (value_size, d)
        assert shift.isfinite().all()
        assert shift.any()


# --- what is remembered ---


def test_values_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("gpt2")
    asked: list[str] = []

    def watched(lm: LanguageModel, facts: Sequence[Any], *args: Any, **options: Any) -> Tensor:
        asked.extend(fact.prompt for fact in facts)
        return optimise_values(lm, facts, *args, **options)

    monkeypatch.setattr(baselines.memit, "optimise_values", watched)
    facts = facts_for(lm, [row(i) for i in range(6)])
    editor = editor_for(lm)
    editor.edit(lm, facts[:4])
    assert isinstance(editor, Remembering)
    assert editor.remembered_seconds == 0
    assert len(asked) == 4
    again = editor.edit(lm, [facts[5], facts[1], facts[2], facts[1]])
    assert len(asked) == 5
    assert editor.remembered_seconds > 0
    wanted = editor_for(lm).edit(lm, [facts[5], facts[1], facts[2], facts[1]])
    assert distance(again, wanted) <= 1e-9


def test_another_language_model_is_not_taken_for_the_first() -> None:
    lm, other = lm_of("gpt2"), tiny_lm("gpt2", edited_blocks=(0, 1), seed=1)
    rows = [row(i) for i in range(3)]
    editor = editor_for(lm)
    editor.edit(lm, facts_for(lm, rows))
    found = editor.edit(other, facts_for(other, rows))
    assert editor.remembered_seconds == 0
    assert distance(found, editor_for(other).edit(other, facts_for(other, rows))) == 0


def test_contexts_are_of_the_seed() -> None:
    lm = lm_of("llama")
    contexts = sample_contexts(lm, replace(SETTINGS, contexts=7), seed=3)
    assert contexts == sample_contexts(lm, replace(SETTINGS, contexts=7), seed=3)
    assert contexts != sample_contexts(lm, replace(SETTINGS, contexts=7), seed=4)
    empty, *others = contexts
    assert empty == ""
    starts = ("The", "Therefore", "Because", "I", "You", "The")
    assert all(text.startswith(start) for text, start in zip(others, starts, strict=True))
    assert all(text.endswith(". ") for text in others)


# --- the file of hyper-parameters ---


def test_published_settings_are_settings_and_the_defaults_are_those_of_gptj() -> None:
    path = Path(baselines.memit.__file__).with_suffix(".yaml")
    published = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(published) == ["EleutherAI_gpt-j-6B", "gpt2-xl"]
    names = {field.name for field in fields(MemitSettings)}
    for model in published.values():
        assert set(model["settings"]) == names - {"fact_batch"}  # ours: batches change nothing
    defaults = asdict(MemitSettings(**published["EleutherAI_gpt-j-6B"]["settings"]))
    assert defaults == asdict(MemitSettings())
