"""Solvers against finite differences, the whole model, brute force and closed forms, on a gated and a plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from swapping import cases_of, items_of, one_pass, problem_of, target_probabilities, untouched
from torch import Tensor

import ingest.solvers
from atlas import registry
from atlas.edits.edit import Change, Intervention
from atlas.errors import UsageError
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from atlas.testing import check_solver
from ingest.solve.problem import CachedBatch, Problem, Weights, cached_batches, objective
from ingest.solve.swaps import Swap
from ingest.solvers._choosing import contributing, excluded
from ingest.solvers.minimal_norm import minimal, observed
from ingest.solvers.rank_one import covered, moments

ANSWERS = ["a dog", "a red dog barks", "dog and a dog"]
CAT, LONG, NONE = Swap("dog", "cat"), Swap("dog", "bee"), Swap("dog")


def solver(name: str, **parameters: Any) -> Any:
    return registry.load(ingest.solvers, name).build(**parameters)


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def writes_of(live: LiveModel, layers: Sequence[int], seed: int = 0, scale: float = 0.3) -> dict[int, Any]:
    """Random deltas on five neurons of each layer."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in layers:
        index = torch.randperm(live.layout.width, generator=generator)[:5]
        deltas = scale * torch.randn(5, live.layout.d_model, generator=generator, dtype=torch.float64)
        found[layer] = (index, deltas.to(live.layout.unembedding().dtype))
    return found


def intervention_of(writes: dict[int, Any]) -> Intervention:
    rows = [(layer, int(i), d) for layer, (index, deltas) in writes.items() for i, d in zip(index, deltas, strict=True)]
    changes = tuple(Change(Neuron("language", layer, i), write=row) for row, (layer, i, _) in enumerate(rows))
    return Intervention(changes, deltas=torch.stack([d for *_, d in rows]).float().numpy())


@pytest.fixture(params=["llava", "opt"])
def exact(request: pytest.FixtureRequest) -> LiveModel:
    """The same models in double precision, logits too, so that a finite difference is one."""
    import conftest

    built = {"llava": conftest.build_llava, "opt": conftest.build_opt}[request.param]
    model, processor = built()
    live = LiveModel(model.double(), processor, name=f"random-{request.param}")
    live.logits = live.layout.head  # type: ignore[method-assign]
    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":  # as transformers has it, but for a cast to float32
            part.forward = lambda x, of=part: of.weight * x * (x.pow(2).mean(-1, True) + of.variance_epsilon).rsqrt()
    return live


@pytest.fixture(params=["llava", "opt"])
def peaked(request: pytest.FixtureRequest) -> LiveModel:
    """The same models, sure of what they say: as they are, no token can have more than a third of the probability."""
    import conftest

    built = {"llava": conftest.build_llava, "opt": conftest.build_opt}[request.param]
    live = LiveModel(*built(), name=f"random-{request.param}")
    with torch.no_grad():
        live.layout.head.weight.mul_(5)
    return live


@pytest.mark.parametrize("swap", [CAT, LONG, NONE], ids=["cat", "bee", "nothing"])
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_the_gradient_of_the_objective_is_its_finite_difference(
    layers: tuple[int, ...], swap: Swap, exact: LiveModel
) -> None:
    """Along random directions in all deltas at once, for what is to change and for what is kept."""
    pictures = exact.name == "random-llava"
    problem = problem_of(exact, ANSWERS, swap, keep=items_of(exact, ["a red cat", "meows"], pictures=pictures))
    made = cached_batches(problem, min(layers))
    assert [p.change for p in made] == [True, False]
    writes = writes_of(exact, layers)
    weights = Weights(kl=0.7, repetition=3.0, keep=1.3)

    def value(moved: dict[int, Any], piece: CachedBatch) -> Tensor:
        return objective(piece, moved, weights, suppress=swap.wanted is None)[0]

    for piece in made:
        leaves = {layer: (index, deltas.clone().requires_grad_()) for layer, (index, deltas) in writes.items()}
        value(leaves, piece).backward()  # type: ignore[no-untyped-call]
        for seed in range(3):
            along = writes_of(exact, layers, seed + 10, 1.0)
            step, ends = 1e-5, []
            for sign in (1, -1):
                with torch.no_grad():
                    ends.append(value({y: (i, d + sign * step * along[y][1]) for y, (i, d) in writes.items()}, piece))
            slope = sum(float((leaves[y][1].grad * along[y][1]).sum()) for y in layers)
            assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)
            assert abs(slope) > 1e-6


@pytest.mark.parametrize("layers", [(0, 1), (1,), (0,)])
def test_the_cached_restart_is_the_whole_model_with_the_edit(layers: tuple[int, ...], live: LiveModel) -> None:
    problem = problem_of(live, ANSWERS, CAT)
    (piece,) = cached_batches(problem, min(layers))
    writes = writes_of(live, layers)
    with torch.no_grad():
        cached = piece.rerun(writes)
        with changing(live, intervention_of(writes)), tracing(live.layout, layers=[]) as capture:
            live.forward(piece.batch)
    assert capture.norm_out is not None
    real = piece.batch.inputs["attention_mask"].bool()
    assert bool((~real).any()), "a batch without padding shows nothing of padding"
    assert torch.allclose(cached[real], capture.norm_out[real], atol=1e-4)
    assert not torch.allclose(cached[real], piece.traced()[real], atol=1e-2)


def test_at_zero_deltas_nothing_drifts_and_the_probabilities_are_the_models(live: LiveModel) -> None:
    problem = problem_of(live, ANSWERS, LONG, keep=items_of(live, ["meows"]))
    for piece in cached_batches(problem, 0):
        zero = {0: (torch.arange(3), torch.zeros(3, live.layout.d_model))}
        final = piece.rerun(zero)
        assert float(piece.drift(final)) == pytest.approx(0, abs=1e-6)
        loss, probabilities = objective(piece, zero, Weights(), suppress=False)
        if not piece.change:
            assert float(loss) == pytest.approx(0, abs=1e-6)
            continue
        ordered = sorted(problem.cases, key=lambda c: (len(c.wanted.ids) + len(c.wanted.answer), c.number))
        by_hand = [p for case in ordered for p in target_probabilities(live, case.item())]
        assert probabilities.tolist() == pytest.approx(by_hand, rel=1e-3)


def test_the_terms_of_the_objective_are_those_of_a_plain_loop(live: LiveModel) -> None:
    """Row by row and position by position, with the released code's loss."""
    problem = problem_of(live, ANSWERS, LONG)
    (piece,) = cached_batches(problem, 0)
    writes = writes_of(live, (0, 1))
    with torch.no_grad():
        found = float(objective(piece, writes, Weights(kl=0.5, repetition=10.0), suppress=False)[0])
        hidden = float(objective(piece, writes, Weights(kl=0.5), suppress=True)[0])
    rows: dict[int, list[int]] = {}
    for row, position in zip(piece.rows.tolist(), piece.positions.tolist(), strict=True):
        rows.setdefault(row, []).append(position)
    ids, special = piece.batch.inputs["input_ids"], live.encoder.tokenizer.all_special_ids
    image = getattr(live.model.config, "image_token_index", -1)
    with torch.no_grad(), changing(live, intervention_of(writes)):
        edited = live.model(**piece.batch.inputs).logits.double().log_softmax(-1)
    with torch.no_grad():
        clean = live.model(**piece.batch.inputs).logits.double().log_softmax(-1)
    drift, worst, again, less = [], [], [], []
    for row, positions in rows.items():
        logp = [float(edited[row, p, ids[row, p + 1]]) for p in positions]
        twice = [float(edited[row, p + 1, ids[row, p + 1]]) for p in positions]
        worst.append(max(-x for x in logp))
        less.append(max(-np.log1p(-np.exp(x)) for x in logp))
        again.append(max(-np.log1p(-np.exp(x)) for x in twice))
        for p in range(ids.shape[1]):
            if piece.batch.inputs["attention_mask"][row, p] and p not in positions and int(ids[row, p]) != image:
                drift.append(float((clean[row, p].exp() * (clean[row, p] - edited[row, p])).sum()))
    assert special and len(rows) == 3
    assert found == pytest.approx(0.5 * np.mean(drift) + np.mean(worst) + 10 * np.mean(again), rel=1e-3)
    assert hidden == pytest.approx(0.5 * np.mean(drift) + np.mean(less), rel=1e-3)


def test_a_certain_word_still_has_a_gradient_away_from_it(random_llava: Any) -> None:
    """Where the probability is 1 in float32, its distance from 1 is 0, and so would be the gradient."""
    import conftest

    live = LiveModel(*conftest.build_llava(), name="random-llava")
    with torch.no_grad():
        live.layout.head.weight.mul_(1000)
    own = live.model.generate(**live.batch([live.encoder.prompt("what ?")]).inputs, max_new_tokens=2, do_sample=False)
    prompt = live.encoder.prompt("what ?")
    answered = prompt.answered(own[0, len(prompt.ids) :].tolist())
    (item,) = items_of(live, ["a"])
    item = replace(item, prompt=answered, targets=item.targets[:1])
    piece = CachedBatch(live, [item], 0, change=True)
    assert target_probabilities(live, item) == [1.0]
    deltas = torch.zeros(64, 32, requires_grad=True)
    loss = piece.worst(piece.unlikely(piece.rerun({1: (torch.arange(64), deltas)})))
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(loss.isfinite()) and deltas.grad is not None
    assert bool(deltas.grad.isfinite().all()) and float(deltas.grad.norm()) > 1e-3


def test_the_worst_is_the_mean_over_rows_of_the_greatest(llava: LiveModel) -> None:
    (piece,) = cached_batches(problem_of(llava, ANSWERS, LONG), 0)
    values = torch.rand(len(piece.rows), generator=torch.Generator().manual_seed(0))
    greatest = [float(values[piece.rows == row].max()) for row in range(3)]
    assert float(piece.worst(values)) == pytest.approx(np.mean(greatest))


FAST = {"lr": 0.05, "epochs": 80}


@pytest.mark.parametrize("swap", [CAT, LONG], ids=["cat", "bee"])
def test_a_word_swap_makes_the_model_say_the_word(swap: Swap, peaked: LiveModel) -> None:
    """Judged by the whole model with hooks, in each case by itself; a word of several tokens too."""
    live, problem = peaked, problem_of(peaked, ANSWERS[: 2 if swap == CAT else 1], swap, batch_size=1)
    with untouched(live):
        solution = solver("word_swap", per_token=20, kl=0.1, repetition=1.0, norm=0.01, **FAST).solve(problem)
    before = [p for case in problem.cases for p in target_probabilities(live, case.item())]
    after = [p for case in problem.cases for p in target_probabilities(live, case.item(), solution.intervention)]
    assert solution.report["worst_before"] == pytest.approx(min(before), rel=1e-3)
    assert solution.report["worst_after"] == pytest.approx(min(after), rel=1e-2)
    assert min(after) > 0.9 > min(before) and solution.report["reached"] is True
    assert len(solution.report["losses"]) == solution.report["epochs"] <= 60
    deltas = solution.intervention.deltas
    assert deltas is not None and solution.report["delta_norm"] == pytest.approx(np.linalg.norm(deltas), rel=1e-5)
    assert solution.report["neurons"] == len(solution.intervention.neurons) == len(deltas)


def test_a_word_that_the_model_says_can_be_made_to_disappear(speaking: Any) -> None:
    problem = problem_of(speaking, ["a dog", "a dog"], NONE)
    before = [p for case in problem.cases for p in target_probabilities(speaking, case.item())]
    assert min(before) > 0.5
    with untouched(speaking):
        solution = solver("word_swap", lr=0.05).solve(problem)
    after = [p for case in problem.cases for p in target_probabilities(speaking, case.item(), solution.intervention)]
    assert solution.report["worst_before"] == pytest.approx(max(before), rel=1e-3)
    assert solution.report["worst_after"] == pytest.approx(max(after), rel=1e-2, abs=1e-3)
    assert max(after) < 0.1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_report_begins_before_the_first_step(batch_size: int, llava: LiveModel) -> None:
    """The least likely word is in the last batch, which the steps before it have moved."""
    problem = problem_of(llava, ["a dog barks", "what is this dog and one hot picture"], CAT)
    before = [min(target_probabilities(llava, case.item())) for case in problem.cases]
    assert before[1] < 0.5 * before[0]
    report = solver("word_swap", epochs=1, lr=1.0).solve(replace(problem, batch_size=batch_size)).report
    assert report["worst_before"] == pytest.approx(before[1], rel=1e-3)
    assert report["worst_after"] != pytest.approx(before[1], rel=0.1)
    assert report["reached"] is False


def test_what_is_kept_stays_nearer_to_what_it_was(llava: LiveModel) -> None:
    keep = items_of(llava, ["a red picture", "two of one"], pictures=True)
    drifts = []
    for weight in (0.0, 30.0):
        problem = problem_of(llava, ["a dog"], CAT, keep=keep)
        found = solver("word_swap", per_token=20, keep=weight, **FAST).solve(problem).intervention
        (piece,) = (p for p in cached_batches(problem, 0) if not p.change)
        with torch.no_grad(), changing(llava, found), tracing(llava.layout, layers=[]) as capture:
            llava.forward(piece.batch)
            assert capture.norm_out is not None
            drifts.append(float(piece.drift(capture.norm_out)))
    assert drifts[1] < 0.5 * drifts[0]


@pytest.mark.parametrize("name", registry.folder_names(ingest.solvers))
def test_every_solver_keeps_its_contract(name: str) -> None:
    moves = name == "minimal_norm"  # a representation, whatever is said then
    check_solver(registry.load(ingest.solvers, name), options={} if moves else {"epochs": 3}, raises_words=not moves)


@pytest.mark.parametrize("name", ["word_swap", "fine_tune", "rank_one"])
def test_an_interrupted_solver_leaves_the_model_alone(name: str, llava: LiveModel) -> None:
    class Stop(Exception):
        pass

    def progress(done: int, total: int) -> None:
        assert (done, total) == (1, 50)
        raise Stop

    problem = replace(problem_of(llava, ANSWERS, CAT), progress=progress)
    with untouched(llava), pytest.raises(Stop):
        solver(name).solve(problem)


def by_brute_force(live: LiveModel, problem: Problem, per_token: int, layers: int) -> list[Neuron]:
    """Contributions case by case, token by token, neuron by neuron."""
    scores: dict[tuple[int, Neuron], list[float]] = {}
    for case in problem.cases:
        item = case.item()
        capture, start, _ = one_pass(live, item)
        for order, target in enumerate(item.targets):
            position = start + target.index - 1
            token = int(live.logits(capture.norm_out[0, position]).argmax())
            for layer in range(layers):
                along = live.layout.unembedding()[token] @ live.layout.write_vectors(layer)
                for i in range(live.layout.width):
                    value = float(capture.values[layer][0, position, i] * along[i])
                    scores.setdefault((order, Neuron("language", layer, i)), []).append(value)
    found: list[Neuron] = []
    for order in sorted({o for o, _ in scores}):
        means = {n: float(np.mean(v)) for (o, n), v in scores.items() if o == order}
        best = sorted(means, key=lambda n: (-means[n], n))[:per_token]
        found += [n for n in best if means[n] > 0 and n not in found]
    return found


@pytest.mark.parametrize(("exclude_last", "layers"), [(0, 2), (1, 1), (-1, 2)])
def test_the_neurons_that_contribute_most_are_those_of_a_plain_loop(
    exclude_last: int, layers: int, live: LiveModel
) -> None:
    problem = problem_of(live, ANSWERS[:2], LONG, batch_size=1)
    assert len(problem.cases[0].wanted_at) > 1
    found = contributing(problem, 7, exclude_last)
    assert found == by_brute_force(live, problem, 7, layers)
    assert contributing(replace(problem, batch_size=2), 7, exclude_last) == found
    every = contributing(problem, 1000, exclude_last)  # none that speaks against what is said
    assert every == by_brute_force(live, problem, 1000, layers) and len(set(every)) == len(every) < 64 * layers


def test_layers_at_the_end_are_left_out() -> None:
    assert [excluded(n, -1) for n in (2, 10, 11, 32, 40)] == [0, 0, 1, 3, 3]
    assert (excluded(2, 0), excluded(2, 1)) == (0, 1)
    with pytest.raises(UsageError, match="exclude_last=2 leaves none of the 2 layers"):
        excluded(2, 2)


def test_every_occurrence_counts_for_the_same_token_of_the_word(llava: LiveModel) -> None:
    """Two occurrences of a word of several tokens choose as many neurons as one: not a longer word."""
    (once,) = cases_of(llava, ["a dog"], LONG)
    (twice,) = cases_of(llava, ["a dog and a dog"], LONG)
    tokens = len(once.wanted_at)
    assert len(twice.wanted_at) == 2 * tokens
    from ingest.solvers._choosing import orders

    assert orders(once.item()) == list(range(tokens)) and orders(twice.item()) == list(range(tokens)) * 2


def test_the_minimal_norm_solution_solves_and_none_is_smaller() -> None:
    rng = torch.Generator().manual_seed(0)
    values, change = (torch.randn(n, generator=rng, dtype=torch.float64) for n in (6, 9))
    found = minimal(values, change)
    assert torch.allclose(values @ found, change)
    assert float(found.norm()) == pytest.approx(float(change.norm() / (values**2).sum().sqrt()))
    for _ in range(50):  # any other: this one and what the values do not see
        other = torch.randn(6, 9, generator=rng, dtype=torch.float64)
        free = found + other - torch.outer(values, values @ other) / (values @ values)
        assert torch.allclose(values @ free, change) and float(free.norm()) > float(found.norm())
    assert np.allclose(found, np.linalg.pinv(values[None].numpy()) @ change[None].numpy())
    with pytest.raises(UsageError, match="all 0 where the word is predicted; choose others"):
        minimal(torch.zeros(3), change)


def plain_means(live: LiveModel, items: Sequence[Any]) -> tuple[Tensor, Tensor]:
    finals, values = [], []
    for item in items:
        capture, start, _ = one_pass(live, item)
        position = start + item.targets[0].index - 1
        finals.append(capture.norm_in[0, position])
        values.append(torch.stack([capture.values[layer][0, position] for layer in range(2)]))
    return torch.stack(finals).mean(0), torch.stack(values).mean(0)


def test_minimal_norm_moves_the_mean_representation(live: LiveModel) -> None:
    goals = items_of(live, ["a cat", "red cat"], pictures=live.name == "random-llava")
    problem = problem_of(live, ANSWERS, CAT, goals=goals, batch_size=2)
    solution = solver("minimal_norm", per_token=10).solve(problem)
    items = [case.item(original=True) for case in problem.cases]
    here, values = plain_means(live, items)
    there, _ = plain_means(live, goals)
    final, mean = observed(problem, items)
    assert torch.allclose(final, here, atol=1e-4) and torch.allclose(mean, values, atol=1e-4)
    report, change = solution.report, there - here
    assert report["distance"] == pytest.approx(float(change.norm()), rel=1e-3)
    mine = torch.tensor([float(values[n.layer, n.index]) for n in solution.intervention.neurons])
    deltas = torch.from_numpy(np.asarray(solution.intervention.deltas))
    assert torch.allclose(mine @ deltas, change, atol=1e-3)
    assert report["delta_norm"] == pytest.approx(float(change.norm() / mine.norm()), rel=1e-3)
    loudest = values.abs().flatten().sort(descending=True).values[: len(mine)]
    assert report["energy_null_norm"] == pytest.approx(float(change.norm() / loudest.norm()), rel=1e-3)
    assert report["energy_null_norm"] <= report["delta_norm"] * (1 + 1e-6)
    assert report["energy_null_norm"] <= report["random_norm_least"] <= report["random_norm_median"]
    # how far the running model really goes: the same by hand, one prompt after another
    with changing(live, solution.intervention):
        moved = plain_means(live, items)[0] - here
    assert report["distance_left"] == pytest.approx(float((change - moved).norm()), rel=1e-2)
    assert report["moved"] == pytest.approx(float(moved @ change / change.norm() ** 2), rel=1e-2, abs=1e-3)


def test_nothing_is_smaller_than_the_most_active_neurons_of_any_layer_where_neurons_are_given(llava: LiveModel) -> None:
    goals = items_of(llava, ["a cat"], pictures=True)
    problem = problem_of(llava, ANSWERS, CAT, goals=goals)
    _, values = observed(problem, [case.item(original=True) for case in problem.cases])
    loudest = [Neuron("language", int(i) // 64, int(i) % 64) for i in values.abs().flatten().topk(3).indices]
    given = replace(problem, neurons=loudest)
    report = solver("minimal_norm", exclude_last=1).solve(given).report
    assert report["energy_null_norm"] == pytest.approx(report["delta_norm"], rel=1e-4)
    with pytest.raises(UsageError, match="needs examples of the concept to move to: give to_concept"):
        solver("minimal_norm").solve(replace(problem, goals=()))


def test_a_rank_one_update_writes_one_vector_for_the_key(live: LiveModel) -> None:
    problem = problem_of(live, ANSWERS, CAT, batch_size=2)
    key, second = moments(problem, 1)
    keys, every = [], []
    for case in problem.cases:
        capture, start, _ = one_pass(live, case.item())
        keys.append(capture.values[1][0, start + case.wanted_at[0] - 1])
        every.append(capture.values[1][0])
    seen = torch.cat(every)
    assert torch.allclose(key, torch.stack(keys).mean(0), atol=1e-4)
    assert torch.allclose(second, seen.T @ seen / len(seen), atol=1e-4)
    pulls = covered(key, second, 0.01)
    assert float(pulls @ key) == pytest.approx(1, abs=1e-4)
    # of all that give 1 for the key, the one that writes least for other values: (c^T C c), ROME's least squares
    regular = second + 0.01 * second.diagonal().mean() * torch.eye(64)
    for seed in range(20):
        other = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        other = pulls + 0.1 * (other - (other @ key) / (key @ key) * key)
        assert float(other @ key) == pytest.approx(1, abs=1e-3)
        assert float(other @ regular @ other) > float(pulls @ regular @ pulls)
    solution = solver("rank_one", layer=1, epochs=4).solve(problem)
    deltas = np.asarray(solution.intervention.deltas)
    assert [(n.layer, n.index) for n in solution.intervention.neurons] == [(1, i) for i in range(64)]
    assert np.linalg.matrix_rank(deltas, tol=1e-4 * np.abs(deltas).max()) == 1
    update = key.numpy() @ deltas
    assert np.allclose(deltas, np.outer(pulls, update), atol=1e-5) and np.linalg.norm(update) > 0
    assert solution.report["layer"] == 1 and solution.report["neurons"] == 64


def test_a_rank_one_update_goes_where_most_neurons_contribute(llava: LiveModel) -> None:
    problem = problem_of(llava, ANSWERS, CAT)
    layers = [n.layer for n in contributing(problem, 20, -1)]
    most = max((0, 1), key=layers.count)
    assert solver("rank_one", epochs=1).solve(problem).report["layer"] == most
    given = [Neuron("language", 0, 3), Neuron("language", 1, 4), Neuron("language", 0, 5)]
    assert solver("rank_one", epochs=1).solve(replace(problem, neurons=given)).report["layer"] == 0
    with pytest.raises(UsageError, match="no layer 7; this model has layers 0-1"):
        solver("rank_one", layer=7).solve(problem)
    with pytest.raises(UsageError, match="all 0 where the word is predicted; choose another layer"):
        covered(torch.zeros(4), torch.eye(4), 0.01)


def test_fine_tuning_changes_every_neuron_of_the_layers_on_the_words_alone(llava: LiveModel) -> None:
    keep = items_of(llava, ["a red picture"], pictures=True)
    given = [Neuron("language", 1, 4)]
    found = []
    for kept in ([], keep):
        problem = problem_of(llava, ANSWERS[:1], CAT, neurons=given, keep=kept)
        found.append(solver("fine_tune", epochs=4).solve(problem))
    assert found[0].intervention.neurons == tuple(Neuron("language", 1, i) for i in range(64))
    deltas = np.asarray(found[0].intervention.deltas)
    assert bool((np.abs(deltas).max(1) > 0).all())
    assert np.array_equal(deltas, np.asarray(found[1].intervention.deltas)), "nothing is kept, so nothing counts"
    assert found[0].report["worst_after"] > found[0].report["worst_before"]


def test_given_neurons_alone_are_changed(llava: LiveModel) -> None:
    given = [Neuron("language", 1, 4), Neuron("language", 0, 7), Neuron("language", 1, 4)]
    solution = solver("word_swap", epochs=2).solve(problem_of(llava, ANSWERS, CAT, neurons=given))
    assert solution.intervention.neurons == (Neuron("language", 0, 7), Neuron("language", 1, 4))
    with pytest.raises(UsageError, match="only the language model's neurons can be edited"):
        solver("word_swap").solve(problem_of(llava, ANSWERS, CAT, neurons=[Neuron("vision", 0, 1)]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("inf")}, "lr must be above 0 and finite"),
        ({"epochs": 0}, "epochs at least 1"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),
        ({"kl": -1.0}, "kl=-1 is not a weight of a loss; give 0 or more"),
        ({"norm": float("nan")}, "norm=nan is not a weight"),
    ],
)
@pytest.mark.parametrize("name", ["word_swap", "rank_one"])
def test_parameters_that_cannot_be_are_refused(name: str, given: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        solver(name, **given)


def test_neurons_and_layers_that_cannot_be_chosen_are_refused(llava: LiveModel) -> None:
    problem = problem_of(llava, ANSWERS, CAT)
    with pytest.raises(UsageError, match="per_token=0 chooses no neuron; give 1 or more"):
        solver("word_swap", per_token=0).solve(problem)
    with pytest.raises(UsageError, match="exclude_last=-2 is not a number of layers; -1 stands for 3 of 32"):
        solver("word_swap", exclude_last=-2).solve(problem)
