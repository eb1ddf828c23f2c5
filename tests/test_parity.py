"""Ours computes what the released code computes, whole steps in double precision.

The other side (`benchmarks/released.py`) is written from the specification and shares nothing with
ours but two classes of data. Where the suite departs from the released code on purpose, the
departure is switched on there, or off here, so that everything else is held to 1e-10.
"""

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_gptj import exact_gptj
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scrambled import learned
from tiny_models import EDITORS, VOCABULARY, bits, random_facts, tiny_lm, tiny_model
from torch import Tensor

from baselines.memit_values import optimise_values
from baselines.ultraedit import UltraEdit
from benchmarks import released, released_memit
from benchmarks.released import Departures, Recipe, Released, Statistics
from benchmarks.released_memit import ReleasedMemit
from benchmarks.shapes import TINY, language_model, random_model, random_questions
from malmen.editor import HyperNetworkEditor
from malmen.evaluation import edit_and_score
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import Predictions
from malmen.meta_gradient import MetaLoss, meta_gradient
from malmen.settings import HyperSettings, MemitSettings, TokenSettings, TrainingSettings
from malmen.training import MetaTraining

KINDS = ("gpt2", "gptj", "t5", "bert")
"""The classes of the paper's language models."""

DEPARTURES = {
    "as the suite": Departures(facts_weigh_equally=True, exact_statistics=True),
    "losses as released": Departures(facts_weigh_equally=False, exact_statistics=True),
    "statistics as released": Departures(facts_weigh_equally=True, exact_statistics=False),
    "as released": Departures(),
}

TOLERANCE = 1e-10

kinds = pytest.mark.parametrize("kind", KINDS)
editors = pytest.mark.parametrize("name", ["malmen", "mend"])


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    with exact_gptj():
        yield


# --- both sides ---


@dataclass(frozen=True)
class Sides:
    """A language model and an editor of ours, and equal ones of the released procedure.

    Attributes:
        lm, editor: ours.
        plain: the released side.
        adam: its optimizer; :attr:`training` has ours.
    """

    lm: LanguageModel
    editor: HyperNetworkEditor
    training: MetaTraining
    plain: Released
    adam: torch.optim.Adam

    @property
    def is_exact(self) -> bool:
        return self.plain.recipe.departures.exact_statistics

    def our_gradient(self, facts: Sequence[EncodedFact]) -> tuple[MetaLoss, dict[str, Tensor]]:
        """Return losses and shifts of a step, and leave its gradients in the parameters."""
        editor, lm = self.editor, self.lm
        record = editor.record(lm, facts)
        editor.observe(record)
        if not self.is_exact:
            self._take_statistics()
        editor.zero_grad()
        loc_coef = self.training.settings.loc_coef
        loss = meta_gradient(editor, lm, record, facts, loc_coef=loc_coef)
        return loss, {layer: shift.detach() for layer, shift in editor.shifts(record).items()}

    def _take_statistics(self) -> None:
        """Let our normalisers hold the released means and standard deviations."""
        for ours, theirs in zip(self.editor.networks, self.plain.networks.values(), strict=True):
            for mine, other in zip((ours.keys, ours.gradients), theirs.statistics, strict=True):
                mine.count.fill_(1)
                mine.mean.copy_(other.mean)
                mine.squares.copy_(other.std().square())


def sides(
    kind: str,
    name: str,
    folder: Path,
    *,
    departures: Departures = DEPARTURES["as the suite"],
    dtype: torch.dtype = torch.float64,
    scrambled: bool = True,
    loc_coef: float = 1.0,
    **changes: Any,
) -> Sides:
    lm = tiny_lm(kind, dtype=dtype)
    chosen = {"rank": 6, "learning_rate": 3e-2, **changes}
    weights: Any = "facts" if departures.facts_weigh_equally else "tokens"
    recipe = Recipe(
        editor=name,  # type: ignore[arg-type]
        loc_coef=loc_coef,
        meta_learning_rate=1e-3,
        departures=departures,
        **chosen,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Released(tiny_model(kind, dtype=dtype), lm.entry.edited, recipe, folder)
        if scrambled:
            scramble(plain)
    editor = EDITORS[name](lm.shapes, HyperSettings(loss_weights=weights, **chosen)).to(dtype)
    copy_parameters(plain, editor)
    training = MetaTraining(
        editor,
        lm,
        random_facts(kind, 1),
        [],
        edits=1,
        steps=1,
        settings=TrainingSettings(loc_coef=loc_coef, meta_learning_rate=1e-3),
        seed=0,
        checkpoint=folder / "unused",
    )
    return Sides(lm, editor, training, plain, plain.optimizer())


@torch.no_grad()
def scramble(plain: Released) -> None:
    """Let all that is learned leave its start; A, whose effect would saturate, is made smaller."""
    for name, parameter in plain.parameters().items():
        if name.endswith(".A"):
            parameter.div_(len(parameter) ** 0.5)
        noise = 0.2 * torch.randn_like(parameter)
        parameter.copy_(parameter * (1 + noise) if name == "learning_rates" else parameter + noise)


@torch.no_grad()
def copy_parameters(plain: Released, editor: HyperNetworkEditor) -> None:
    theirs = plain.parameters()
    for name, parameter in learned(editor):
        parameter.copy_(theirs[name])


def facts_of(kind: str, n: int, *, seed: int, equal_lengths: bool) -> list[EncodedFact]:
    """Return random facts whose answers have 1 to 3 tokens, or all of them two."""
    facts = random_facts(kind, n, seed=seed)
    if not equal_lengths or kind == "bert":
        return facts
    draw = random.Random(seed)

    def of_two(example: Any) -> Any:
        targets = (draw.randrange(3, VOCABULARY), draw.randrange(3, VOCABULARY))
        if kind == "t5":
            return replace(example, positions=(0, 1), targets=targets, decoder_ids=(0, targets[0]))
        last = len(example.ids) - 1
        return replace(example, positions=(last - 1, last), targets=targets)

    return [EncodedFact(*map(of_two, (f.edit, f.equivalent, f.unrelated))) for f in facts]


def assert_close(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], what: str) -> None:
    """Hold every tensor to the other side's, relative to its largest entry."""
    assert set(ours) == set(plain)
    for name, mine in ours.items():
        difference = (mine - plain[name]).abs().max()
        assert difference <= TOLERANCE * plain[name].abs().max().clamp(min=1e-12), (what, name)


def assert_equal_steps(both: Sides, facts: Sequence[EncodedFact]) -> None:
    """Do a step on both sides and compare all of it: losses, shifts, gradients, Adam's step."""
    both.adam.zero_grad()
    theirs = both.plain.meta_gradient(facts)
    ours, shifts = both.our_gradient(facts)
    assert ours.generalisation == pytest.approx(theirs.generalisation, rel=TOLERANCE)
    assert ours.locality == pytest.approx(theirs.locality, rel=TOLERANCE)
    assert ours.total == pytest.approx(theirs.total, rel=TOLERANCE)
    plain_shifts = both.plain.shifts(len(members_of_batches(both, facts)))
    assert_close(shifts, {name: shift.T for name, shift in plain_shifts.items()}, "shift")
    gradients = {name: p.grad for name, p in both.plain.parameters().items()}
    assert_close({n: p.grad for n, p in learned(both.editor)}, gradients, "gradient")
    both.plain.clipped_step(both.adam)
    both.training._clip(0, ours)
    both.training.optimizer.step()
    stepped = {name: p.detach() for name, p in both.plain.parameters().items()}
    assert_close({n: p.detach() for n, p in learned(both.editor)}, stepped, "step")


def members_of_batches(both: Sides, facts: Sequence[EncodedFact]) -> list[list[int]]:
    """Return the facts of every batch of edit tuples."""
    return [batch.members.tolist() for batch in both.plain._batches([f.edit for f in facts])]


# --- whole steps of MALMEN and MEND ---


@kinds
@editors
@settings(
    max_examples=max(5, settings.default.max_examples // 10),
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # files are written over
)
@given(
    departures=st.sampled_from(sorted(DEPARTURES)),
    n=st.integers(2, 7),
    seed=st.integers(0, 99),
    equal_lengths=st.booleans(),
    scrambled=st.booleans(),
    loc_coef=st.sampled_from([0.0, 0.3, 1.0]),
    fact_batch=st.integers(2, 8),
    token_batch=st.integers(1, 30),
    cached=st.sampled_from(["ans", "all"]),
)
def test_a_whole_step_is_the_released_one(
    kind: str,
    name: str,
    tmp_path: Path,
    departures: str,
    n: int,
    seed: int,
    equal_lengths: bool,
    **changes: Any,
) -> None:
    both = sides(kind, name, tmp_path, departures=DEPARTURES[departures], **changes)
    facts = facts_of(kind, n, seed=seed, equal_lengths=equal_lengths)
    # The released variance of a batch of one row is no number.
    assume(both.is_exact or min(map(len, members_of_batches(both, facts))) > 1)
    assert_equal_steps(both, facts)


@kinds
@pytest.mark.parametrize("departures", ["as the suite", "losses as released"])
def test_three_steps_are_the_released_ones(kind: str, departures: str, tmp_path: Path) -> None:
    """Running statistics, η, λ, the network and Adam's moments have moved when one begins."""
    both = sides(kind, "malmen", tmp_path, departures=DEPARTURES[departures], fact_batch=4)
    for seed in range(3):
        assert_equal_steps(both, facts_of(kind, 6, seed=seed, equal_lengths=False))


@kinds
def test_a_lambda_that_is_not_learned_stays(kind: str, tmp_path: Path) -> None:
    both = sides(kind, "malmen", tmp_path, learn_lambda=False, fact_batch=3)
    assert_equal_steps(both, facts_of(kind, 5, seed=0, equal_lengths=False))
    assert not both.editor.log_lambdas.any()


def test_first_losses_are_equal_in_single_precision(tmp_path: Path) -> None:
    both = sides("gpt2", "malmen", tmp_path, dtype=torch.float32, fact_batch=3)
    facts = random_facts("gpt2", 7)
    theirs = both.plain.meta_gradient(facts)
    ours, _ = both.our_gradient(facts)
    assert ours.locality > 1e-3
    assert ours.total == pytest.approx(theirs.total, rel=1e-5)


# --- where a training starts ---


def start_of(name: str, settings: HyperSettings) -> float | None:
    """Return the constant that a parameter starts at; None of a matrix of N(0, 1)."""
    kind = name.rpartition(".")[2]
    constants = {"B": 0.0, "bias": 0.0, "scale": 1.0, "offset": 0.0, "log_lambdas": 0.0}
    constants["learning_rates"] = settings.learning_rate
    return constants.get(kind)


@editors
def test_every_parameter_starts_as_released(name: str, tmp_path: Path) -> None:
    layers = {f"layer{i}": (96, 32) for i in range(3)} | {"other": (32, 96)}
    chosen = HyperSettings(rank=400)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        editor = EDITORS[name](layers, chosen)
        model = tiny_model("t5", dtype=torch.float32)
        plain = Released(model, tiny_lm("t5").entry.edited, Recipe(rank=400), tmp_path)
    for parameters in (dict(editor.named_parameters()), plain.parameters()):
        matrices = 0
        for parameter_name, parameter in parameters.items():
            value = parameter.detach().double()
            constant = start_of(parameter_name, chosen)
            if constant is not None:
                assert torch.equal(parameter, torch.full_like(parameter, constant)), parameter_name
                continue
            matrices += 1
            assert parameter_name.endswith(".A")
            assert is_standard_normal(value), parameter_name
        assert matrices == 2 * chosen.n_blocks


def is_standard_normal(values: Tensor) -> bool:
    """Tell whether entries are as N(0, 1) as so many can be, by their first four moments."""
    x, n = values.flatten(), values.numel()
    moments = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}
    return all(
        abs(x.pow(k).mean().item() - mean) <= 5 * (variance / n) ** 0.5
        for k, (mean, variance) in moments.items()
    )


def test_the_check_of_the_start_tells_other_starts() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(128, 400, generator=generator, dtype=torch.float64)
    uniform = torch.rand(128, 400, generator=generator, dtype=torch.float64)
    assert is_standard_normal(normal)
    for other in (normal / 128**0.5, normal * 1.05, normal + 0.05, (uniform - 0.5) * 12**0.5):
        assert not is_standard_normal(other)


# --- the statistics ---


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_released_variances_are_too_large_by_what_is_stated(sizes: list[int], seed: int) -> None:
    """A batch of m rows adds m · var, which is its sum of squares times m / (m - 1)."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(m, 3, generator=generator, dtype=torch.float64) for m in sizes]
    exact, biased = (Statistics(3, exact=is_exact).double() for is_exact in (True, False))
    for batch in batches:
        exact.update(batch)
        biased.update(batch)
    rows = torch.cat(batches)
    torch.testing.assert_close(exact.squares, (rows - rows.mean(0)).square().sum(0))
    extra = sum((b - b.mean(0)).square().sum(0) / (len(b) - 1) for b in batches)
    torch.testing.assert_close(biased.squares, exact.squares + extra)
    torch.testing.assert_close(biased.mean, exact.mean)


# --- UltraEdit ---


@kinds
@pytest.mark.parametrize("fact_batch", [2, 3, 100])
def test_a_turn_of_ultraedit_is_the_released_one(
    kind: str, fact_batch: int, tmp_path: Path
) -> None:
    lm, facts = tiny_lm(kind), random_facts(kind, 7)
    recipe = Recipe(
        editor="ultraedit",
        learning_rate=1e-2,
        fact_batch=fact_batch,
        token_batch=5,
        departures=DEPARTURES["as the suite"],
    )
    plain = Released(tiny_model(kind), lm.entry.edited, recipe, tmp_path)
    theirs = plain.shifts(plain.record(facts, observe=True))
    editor = UltraEdit(
        lm.shapes, TokenSettings(learning_rate=1e-2, fact_batch=fact_batch, token_batch=5)
    )
    assert_close(dict(editor.edit(lm, facts)), {name: s.T for name, s in theirs.items()}, "shift")


# --- MEMIT's values, on the model that speed is measured on (updates: test_memit.py) ---


@settings(max_examples=settings.default.max_examples // 5)
@given(
    seed=st.integers(0, 99),
    v_learning_rate=st.sampled_from([0.05, 0.5]),
    kl_factor=st.sampled_from([0.0625, 1.0]),
    kl_at=st.sampled_from(["subject", "essence"]),
    kl_direction=st.sampled_from(["after_before", "before_after"]),
    block=st.integers(0, 1),
)
def test_values_are_the_released_ones(seed: int, block: int, **changes: Any) -> None:
    model = random_model(TINY).double()
    contexts = ["", "w1 w2. ", "w3 w4 w5 "]
    chosen = replace(MemitSettings(v_steps=5), **changes)
    facts = random_questions(TINY, 3, seed=seed)
    lm = language_model(model, TINY)
    ours = optimise_values(lm, facts, contexts, chosen, block=block)
    layers = [f"transformer.h.{block}.mlp.c_proj"]
    plain = ReleasedMemit(model, lm.tokenizer, layers, chosen)
    found = torch.stack([plain.value(fact, contexts) for fact in facts])
    torch.testing.assert_close(found, ours, rtol=TOLERANCE, atol=TOLERANCE)


# --- editing and scores ---


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "t5"])
def test_scores_are_equal(kind: str, tmp_path: Path) -> None:
    both = sides(kind, "malmen", tmp_path, fact_batch=3)
    facts = random_facts(kind, 7)
    both.editor.observe(both.editor.record(both.lm, facts))
    both.plain.record(facts, observe=True)
    statistics = bits(both.editor)
    facts = partly_predicted(facts, edit_and_score(both.editor, both.lm, facts, size=3).unrelated)
    scores = edit_and_score(both.editor, both.lm, facts, size=3)
    assert 0.1 < scores.unrelated.accuracy().mean() < 0.9
    found = both.plain.edit_and_score(facts)
    for theirs, mine in zip(found, (scores.edit, scores.equivalent, scores.unrelated), strict=True):
        torch.testing.assert_close(theirs, mine.accuracy(), rtol=1e-12, atol=1e-12)
    assert bits(both.editor) == statistics


def partly_predicted(facts: list[EncodedFact], predictions: Predictions) -> list[EncodedFact]:
    """Return the facts, every other one's unrelated answer being what is predicted."""
    changed = []
    for i, fact in enumerate(facts):
        predicted = tuple(predictions.tokens[predictions.facts == i].tolist())
        targets = predicted if i % 2 else fact.unrelated.targets
        changed.append(replace(fact, unrelated=replace(fact.unrelated, targets=targets)))
    return changed


@kinds
def test_released_weights_come_back_up_to_rounding(kind: str, tmp_path: Path) -> None:
    both = sides(kind, "malmen", tmp_path)
    facts = random_facts(kind, 4)
    both.plain.meta_gradient(facts)
    for name, layer in both.lm.layers.items():
        weight = both.plain.model.get_submodule(name).weight
        torch.testing.assert_close(weight.detach(), layer.weight, rtol=1e-12, atol=1e-12)
        assert weight.grad is None


# --- two independent sides ---

DATA_CLASSES = {
    "malmen.lm.batches": {"Example"},
    "malmen.lm.encoding": {"EncodedFact"},
    "malmen.settings": {"MemitSettings"},
    "baselines.memit_values": {"Question"},
}


@pytest.mark.parametrize("module", [released, released_memit])
def test_the_released_side_takes_nothing_from_the_suite_but_classes_of_data(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(a.name.startswith(("malmen", "baselines")) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            module_name = node.module or ""
            if module_name.split(".")[0] in {"malmen", "baselines", "benchmarks"}:
                assert {alias.name for alias in node.names} <= DATA_CLASSES[module_name]
