"""The questions as methods of `Atlas`.

Written by `python -m atlas.api.write_questions` from `atlas/questions/`: write it again, do not edit it.
"""

from __future__ import annotations

from atlas.api.ask import method_of
from atlas.questions.agreement import Agreement
from atlas.questions.compare import Compare
from atlas.questions.concept_matrix import ConceptMatrix
from atlas.questions.concepts import Concepts
from atlas.questions.count import Count
from atlas.questions.cross_ablation import CrossAblation
from atlas.questions.datasets import Datasets
from atlas.questions.dose_response import DoseResponse
from atlas.questions.edit_diff import EditDiff
from atlas.questions.edits import Edits
from atlas.questions.effects import Effects
from atlas.questions.exemplars import Exemplars
from atlas.questions.labels import Labels
from atlas.questions.layers import Layers
from atlas.questions.leaderboard import Leaderboard
from atlas.questions.match import Match
from atlas.questions.measures import Measures
from atlas.questions.models import Models
from atlas.questions.neuron import Neuron
from atlas.questions.only import Only
from atlas.questions.overlap import Overlap
from atlas.questions.points import Points
from atlas.questions.query import Query
from atlas.questions.roles import Roles
from atlas.questions.run import Run
from atlas.questions.run_diff import RunDiff
from atlas.questions.runs import Runs
from atlas.questions.search import Search
from atlas.questions.shared import Shared
from atlas.questions.similar import Similar


class Questions:
    """One method a question."""

    agreement = method_of(Agreement)
    compare = method_of(Compare)
    concept_matrix = method_of(ConceptMatrix)
    concepts = method_of(Concepts)
    count = method_of(Count)
    cross_ablation = method_of(CrossAblation)
    datasets = method_of(Datasets)
    dose_response = method_of(DoseResponse)
    edit_diff = method_of(EditDiff)
    edits = method_of(Edits)
    effects = method_of(Effects)
    exemplars = method_of(Exemplars)
    labels = method_of(Labels)
    layers = method_of(Layers)
    leaderboard = method_of(Leaderboard)
    match = method_of(Match)
    measures = method_of(Measures)
    models = method_of(Models)
    neuron = method_of(Neuron)
    only = method_of(Only)
    overlap = method_of(Overlap)
    points = method_of(Points)
    query = method_of(Query)
    roles = method_of(Roles)
    run = method_of(Run)
    run_diff = method_of(RunDiff)
    runs = method_of(Runs)
    search = method_of(Search)
    shared = method_of(Shared)
    similar = method_of(Similar)
